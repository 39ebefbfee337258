"""The system as a picture: who talks to whom, how much, and who is silent.

Clients are one box that lists them while they are few, and counts them above that.  The picture exists twice, wide
and narrow; the page takes what fits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cutlayer.report.units import format_bytes, format_count

NAMED = 12
"""Up to so many clients are named in their box."""
KINDS = {"split": "split server", "fed": "federated server"}
FLOWS = 1.0
"""Bytes a second above which an edge is shown as flowing."""


@dataclass(frozen=True)
class Lamp:
    """A client in its box."""

    name: str
    live: bool
    x: float
    y: float


@dataclass(frozen=True)
class Node:
    """A box.  ``lines`` stand below its name; one that is not ``live`` is dark."""

    id: str
    name: str
    lines: tuple[str, ...]
    live: bool
    x: float
    y: float
    w: float
    h: float
    lamps: tuple[Lamp, ...] = ()


@dataclass(frozen=True)
class Edge:
    """A line between two boxes, with what flows on it in both directions together (bytes a second)."""

    id: str
    path: str
    width: float
    flows: bool
    dark: bool
    label: str = ""
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True)
class Picture:
    """A drawing of a certain size."""

    width: float
    height: float
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def as_props(self) -> dict[str, Any]:
        """Return what the page draws."""
        return asdict(self)


def pictures(system: Mapping[str, Any], clients: Sequence[Mapping[str, Any]], away: bool = False) -> dict[str, Any]:
    """Return both pictures and a sentence, of the answer of ``/system`` and, while they are few, the clients.

    ``away``: the backend does not answer, and this is what it said last.
    """
    system = {**system, "away": away}
    return {
        "wide": wide(system, clients).as_props(),
        "narrow": narrow(system, clients).as_props(),
        "summary": summary(system),
    }


def summary(system: Mapping[str, Any]) -> str:
    """Return the picture in a sentence."""
    found = services(system)
    dark = [s["id"] for s in found if not s["live"]]
    connected, total = system["clients"]["connected"], system["clients"]["total"]
    text = f"{connected} of {total} clients are connected; {len(found) - len(dark)} of {len(found)} servers are live."
    return f"{text} Silent: {', '.join(dark)}." if dark else text


def services(system: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the split servers and the federated ones, by name."""
    return sorted(system.get("services", ()), key=lambda s: (s["kind"] != "split", s["id"]))


def flow(service: Mapping[str, Any]) -> float:
    """Return the bytes a second of a service, in and out; none while it is silent."""
    stats = service.get("stats") or {}
    if not service["live"]:
        return 0.0
    return float(stats.get("bytes_in_per_second") or 0.0) + float(stats.get("bytes_out_per_second") or 0.0)


def thickness(rate: float) -> float:
    """Return the width of an edge: each factor of ten is as much thicker."""
    return round(1.5 + 0.9 * math.log10(1 + rate / 1024), 2)


def wide(system: Mapping[str, Any], clients: Sequence[Mapping[str, Any]]) -> Picture:
    """Return the picture from left to right: clients, servers, store; below them backend and database."""
    found = services(system)
    high = 74.0
    rows = max(1, len(found))
    middle = rows * (high + 18) - 18
    box = max(92.0, 62 + 24.0 * len(_lamps(clients, system, 0, 0)))
    top = 16.0
    body = max(middle, box)
    people = _clients(system, clients, 16, top + (body - box) / 2, 216, box)
    nodes = [people]
    edges = []
    begin = top + (body - middle) / 2
    store = Node("store", "store", _store(system), True, 884, top + (body - 84) / 2, 200, 84)
    for n, service in enumerate(found):
        node = _service(service, 476, begin + n * (high + 18), 216, high)
        nodes.append(node)
        edges += _flowing(people, node, service, store)
    below = top + body + 56
    backend = Node("backend", "backend", _backend(system), not system.get("away"), 476, below, 216, 74)
    database = Node("database", "database", _database(system), True, 884, below, 200, 74)
    nodes += [store, backend, database]
    edges.append(_edge("clients-backend", _curve(people, backend), 1.5, 0.0, False))
    edges.append(_edge("backend-database", _curve(backend, database), 1.5, 0.0, False))
    return Picture(1100, below + 74 + 14, tuple(nodes), tuple(edges))


def narrow(system: Mapping[str, Any], clients: Sequence[Mapping[str, Any]]) -> Picture:
    """Return the picture from the top down, for a narrow screen."""
    found = services(system)
    box = max(92.0, 62 + 24.0 * len(_lamps(clients, system, 0, 0)))
    people = _clients(system, clients, 6, 8, 348, box)
    nodes, edges = [people], []
    begin = people.y + people.h + 54
    rows = -(-len(found) // 2) or 1
    below = begin + rows * 104 + 24
    store = Node("store", "store", _store(system), True, 6, below, 166, 84)
    for n, service in enumerate(found):
        node = _service(service, 6 + 182 * (n % 2), begin + 104 * (n // 2), 166, 72)
        nodes.append(node)
        edges += _flowing(people, node, service, store, down=True)
    backend = Node("backend", "backend", _backend(system), not system.get("away"), 188, below, 166, 84)
    database = Node("database", "database", _database(system), True, 188, below + 120, 166, 72)
    nodes += [store, backend, database]
    edges.append(_edge("backend-database", _drop(backend, database), 1.5, 0.0, False))
    return Picture(360, below + 120 + 72 + 10, tuple(nodes), tuple(edges))


# --- boxes --------------------------------------------------------------------------------------------------------


def _clients(
    system: Mapping[str, Any], clients: Sequence[Mapping[str, Any]], x: float, y: float, w: float, h: float
) -> Node:
    connected, total = system["clients"]["connected"], system["clients"]["total"]
    lines = (f"{connected} of {total} connected",)
    return Node("clients", "clients", lines, connected > 0 or total == 0, x, y, w, h, _lamps(clients, system, x, y))


def _lamps(clients: Sequence[Mapping[str, Any]], system: Mapping[str, Any], x: float, y: float) -> tuple[Lamp, ...]:
    if system["clients"]["total"] > NAMED:
        return ()
    return tuple(
        Lamp(_short(c["name"], 26), bool(c["connected"]), x + 18, y + 68 + 24 * n) for n, c in enumerate(clients)
    )


def _service(service: Mapping[str, Any], x: float, y: float, w: float, h: float) -> Node:
    stats = service.get("stats") or {}
    kind = KINDS.get(service["kind"], service["kind"])
    if service["live"]:
        steps = stats.get("steps_per_second")
        what = "steps/s" if service["kind"] == "split" else "requests/s"
        line = f"{format_count(steps) if steps >= 10 else f'{steps:.1f}'} {what}" if steps else "idle"
        queue = stats.get("queue_depth")
        second = f"{line}, {queue} waiting" if queue else line
    else:
        second = f"silent for {service.get('silent', 0):.0f} s"
    return Node(
        f"{service['kind']}:{service['id']}", _short(service["id"], 22), (kind, second), service["live"], x, y, w, h
    )


def _store(system: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"holds {format_bytes(largest(system, 'store_bytes'))}",
        f"ledger {format_bytes(largest(system, 'ledger_bytes'))}",
    )


def silence(system: Mapping[str, Any]) -> tuple[str, str]:
    """Return which servers are silent and what that means, and how bad it is; empty for none."""
    found = services(system)
    said, mood = [], ""
    for kind, name in KINDS.items():
        mine = [s for s in found if s["kind"] == kind]
        dark = [s["id"] for s in mine if not s["live"]]
        if dark:
            others = len(mine) - len(dark)
            then = "others answer" if others else "what needs it waits until it is back"
            said.append(f"{name} {', '.join(dark)} ({then})")
            mood = "warn" if others and mood != "bad" else "bad"
    return (f"Silent: {'; '.join(said)}.", mood) if said else ("", "")


def largest(system: Mapping[str, Any], key: str) -> float | None:
    """Return the largest of what the servers measured: they all look at the same store."""
    found = [(s.get("stats") or {}).get(key) for s in system.get("services", ())]
    return max((v for v in found if v is not None), default=None)


def _backend(system: Mapping[str, Any]) -> tuple[str, ...]:
    if system.get("away"):
        return (f"version {system.get('version', '?')}", "does not answer")
    running = sum(n for state, n in system.get("runs", {}).items() if state in ("preparing", "running", "finishing"))
    return (f"{running} run{'' if running == 1 else 's'} under way", f"version {system.get('version', '?')}")


def _database(system: Mapping[str, Any]) -> tuple[str, ...]:
    found = system.get("database") or {}
    name = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}.get(str(found.get("kind")), str(found.get("kind", "?")))
    return (name, format_bytes(found.get("bytes")))


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


# --- lines --------------------------------------------------------------------------------------------------------


def _flowing(people: Node, node: Node, service: Mapping[str, Any], store: Node, *, down: bool = False) -> list[Edge]:
    rate = flow(service)
    label = f"{format_bytes(rate)}/s" if rate >= FLOWS else ""
    route = _drop if down else _curve
    x, y = node.x + node.w / 2, node.y - 12
    if not down:  # on the side from which the line does not come
        middle = node.y + node.h / 2
        x, y = node.x - 62, middle - 9 if middle <= people.y + people.h / 2 + 1 else middle + 20
    dark = not service["live"]
    return [
        _edge(f"clients-{node.id}", route(people, node), thickness(rate), rate, dark, label, x, y),
        _edge(f"{node.id}-store", route(node, store), 1.5, 0.0, dark),
    ]


def _edge(
    id: str, path: str, width: float, rate: float, dark: bool, label: str = "", x: float = 0.0, y: float = 0.0
) -> Edge:
    return Edge(id, path, width, rate >= FLOWS and not dark, dark, label, x, y)


def _curve(one: Node, other: Node) -> str:
    """Return a path from the right side of a box to the left side of another."""
    x0, y0, x1, y1 = one.x + one.w, one.y + one.h / 2, other.x, other.y + other.h / 2
    middle = (x0 + x1) / 2
    return f"M{x0:.0f} {y0:.0f}C{middle:.0f} {y0:.0f} {middle:.0f} {y1:.0f} {x1:.0f} {y1:.0f}"


def _drop(one: Node, other: Node) -> str:
    """Return a path from the bottom of a box to the top of another."""
    x0, y0, x1, y1 = one.x + one.w / 2, one.y + one.h, other.x + other.w / 2, other.y
    middle = (y0 + y1) / 2
    return f"M{x0:.0f} {y0:.0f}C{x0:.0f} {middle:.0f} {x1:.0f} {middle:.0f} {x1:.0f} {y1:.0f}"
