"""The transport of one process: a call, with the bytes counted that the same messages have on the wire."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cutlayer import wire
from cutlayer.transport.traffic import Traffic
from cutlayer.wire import Message


class InProcess:
    """Hands messages to ``handle``; with ``encoded=True`` as bytes, decoded again, as a socket would.

    Both ways give the same results and the same counts.
    """

    def __init__(
        self,
        handle: Callable[[Message], Message],
        handle_together: Callable[[Sequence[Message]], list[Message]],
        traffic: Traffic,
        *,
        encoded: bool = False,
    ) -> None:
        self._handle = handle
        self._handle_together = handle_together
        self._traffic = traffic
        self._encoded = encoded

    def request(self, message: Message) -> Message:
        """Return the reply to ``message``."""
        self._traffic.count_up(message)
        reply = self._handle(self._carried(message))
        self._traffic.count_down(reply)
        return self._carried(reply)

    def request_together(self, messages: Sequence[Message]) -> list[Message]:
        """Return the replies to one message of every client."""
        for message in messages:
            self._traffic.count_up(message)
        replies = self._handle_together([self._carried(m) for m in messages])
        for reply in replies:
            self._traffic.count_down(reply)
        return [self._carried(r) for r in replies]

    def up(self, message: Message, content: str) -> Message:
        """Carry a message from a client that is not a request to the split server: an update, a hand-over."""
        self._traffic.count_up(message, content)
        return self._carried(message)

    def down(self, message: Message, content: str) -> Message:
        """Carry a message to a client that is not a reply: weights."""
        self._traffic.count_down(message, content)
        return self._carried(message)

    def close(self) -> None:
        """Nothing to close."""

    def _carried(self, message: Message) -> Message:
        return wire.decode(wire.encode(message)) if self._encoded else message
