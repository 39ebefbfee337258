"""The one interface that every transport fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cutlayer.wire import Message


class Transport(Protocol):
    """Carries requests to the split server.

    ``request`` returns the reply to one message; ``request_together`` those to one message of every client at once,
    where the recipe has the server wait for all of them.
    """

    def request(self, message: Message) -> Message: ...

    def request_together(self, messages: Sequence[Message]) -> list[Message]: ...

    def close(self) -> None: ...
