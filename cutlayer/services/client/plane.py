"""The data plane as a client's task sees it: messages up, messages down, counted, however servers come and go."""

from __future__ import annotations

import logging
from collections.abc import Callable

from cutlayer import wire
from cutlayer.services.api import Backend
from cutlayer.services.errors import Unauthorized
from cutlayer.services.http import Link, Unreachable
from cutlayer.services.line import Content
from cutlayer.services.protocol import Task
from cutlayer.transport import Traffic
from cutlayer.wire import Message

log = logging.getLogger(__name__)

MakeLink = Callable[[list[str], str], Link]
"""Makes a link to one of several replicas, with a ticket."""


class DataPlane:
    """Carries one task's messages to split and federated servers.

    Where they are is asked again whenever none of them answers; a ticket that has expired is asked for again, too.
    Everything is repeated until it works, the client is told to stop (Interrupted), or ``check`` raises.
    """

    def __init__(
        self, backend: Backend, make: MakeLink, task: Task, number: int, traffic: Traffic, check: Callable[[], None]
    ) -> None:
        self._backend, self._make, self._number, self._traffic = backend, make, number, traffic
        self._check = check
        self._task = task
        self._links: dict[str, Link] = {}
        self.content: Content = b""
        """The last reply as it came."""

    def request(self, message: Message) -> Message:
        """Send a request to a split server and return its reply; both are counted."""
        self._traffic.count_up(message)
        reply = self._exchange("split", "POST", message.kind, message)
        assert reply is not None
        self._traffic.count_down(reply)
        return reply

    def up(self, path: str, message: Message) -> None:
        """Send weights to the federated server; they are counted."""
        self._exchange("fed", "PUT", path, message)
        self._traffic.count_up(message, "updates")

    def down(self, path: str) -> Message | None:
        """Return weights of the federated server, None where there are none; they are counted."""
        reply = self._exchange("fed", "GET", path, None)
        if reply is not None:
            self._traffic.count_down(reply, "updates")
        return reply

    def close(self) -> None:
        """Close the connections."""
        for link in self._links.values():
            link.close()
        self._links = {}

    def _exchange(self, server: str, method: str, path: str, message: Message | None) -> Message | None:
        task = self._task
        address = f"/v1/runs/{task.run}/rounds/{task.round}/{path}"
        buffers = [] if message is None else wire.parts(message)
        while True:
            try:
                self.content = self._link(server).binary(method, address, buffers)
                return wire.decode(self.content) if self.content else None
            except Unreachable as error:
                self._check()
                log.warning("%s; asking where the servers are", error)
                self._forget(server)
            except Unauthorized as error:
                if error.code != "expired":
                    raise
                self._renew()

    def _link(self, server: str) -> Link:
        if server not in self._links:
            while True:
                ends = self._backend.endpoints()
                urls = list(ends.split if server == "split" else ends.fed)
                if urls:
                    break
                self._check()
                log.warning("no %s server is there yet", server)
                if self._backend.link.stop.wait(1.0):
                    break
            first = self._number % max(len(urls), 1)
            self._links[server] = self._make(urls[first:] + urls[:first], self._task.ticket or "")
        return self._links[server]

    def _forget(self, server: str) -> None:
        link = self._links.pop(server, None)
        if link is not None:
            link.close()

    def _renew(self) -> None:
        found = self._backend.next_task(wait=0.0)
        if found is not None and found.id == self._task.id:
            self._task = found
        self.close()
