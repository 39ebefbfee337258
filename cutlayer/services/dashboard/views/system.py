"""The system: who is there, what flows, and how each server is doing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nicegui.element import Element

from cutlayer.report.units import format_bytes, format_share
from cutlayer.services.dashboard.charts import pace, topology
from cutlayer.services.dashboard.elements.topology import Topology
from cutlayer.services.dashboard.hub import Hub
from cutlayer.services.dashboard.live import SystemFeed
from cutlayer.services.dashboard.views.frame import Frame
from cutlayer.services.dashboard.views.parts import ChartCard, Tag, Tile, When, nothing

HINT = "Start some with “cutlayer up --split 2 --clients 3”, or “cutlayer serve split” on another machine."


class ServerCard:
    """How a split or federated server is doing."""

    ROWS = (
        ("steps", "Steps"),
        ("latency", "Latency p50 / p95 / p99"),
        ("queue", "Requests waiting"),
        ("cache", "Graphs found again"),
        ("traffic", "In / out"),
        ("memory", "Memory"),
        ("cpu", "Processor"),
        ("runs", "Runs in memory"),
        ("seen", "Last heard of"),
    )

    def __init__(self, service: Mapping[str, Any]) -> None:
        with Tag("section", classes="card w4", aria_label=service["id"]) as self.card:
            with Tag("header"):
                with Tag("div"):
                    Tag("h2", service["id"])
                    Tag("p", topology.KINDS.get(service["kind"], service["kind"]), "muted small")
                self.state = Tag("span", "", "state")
            self.values: dict[str, Tag] = {}
            with Tag("dl", classes="facts"):
                for key, label in self.ROWS:
                    if service["kind"] == "fed" and key in ("latency", "cache", "steps", "queue"):
                        continue
                    Tag("dt", label)
                    with Tag("dd"):
                        self.values[key] = When(None, "ago") if key == "seen" else Tag("span", "–")
        self.show(service)

    def show(self, service: Mapping[str, Any]) -> None:
        """Show it as it is now."""
        stats, live = service.get("stats") or {}, service["live"]
        self.state.say("live" if live else f"silent for {service.get('silent', 0):.0f} s")
        self.state.look("state done" if live else "state failed")
        self.card.look(f"card w4{'' if live else ' dark'}")
        hits, misses = stats.get("graph_hits"), stats.get("graph_misses")
        tried = (hits or 0) + (misses or 0)
        found = {
            "steps": f"{stats['steps_per_second']:.1f} a second" if stats.get("steps_per_second") is not None else "–",
            "latency": _latency(stats),
            "queue": str(stats.get("queue_depth", "–")),
            "cache": f"{format_share(hits / tried)} of {tried}" if tried and hits is not None else "–",
            "traffic": f"{_rate(stats.get('bytes_in_per_second'))} / {_rate(stats.get('bytes_out_per_second'))}",
            "memory": format_bytes(stats.get("rss_bytes")),
            "cpu": f"{stats['cpu_percent']:.0f}\u202f%" if stats.get("cpu_percent") is not None else "–",
            "runs": str(stats.get("runs", "–")),
        }
        for key, text in found.items():
            if key in self.values:
                self.values[key].say(text)
        seen = self.values["seen"]
        assert isinstance(seen, When)
        seen.at(service["last_seen"])


def _latency(stats: Mapping[str, Any]) -> str:
    found = [stats[key] for key in ("p50_ms", "p95_ms", "p99_ms") if stats.get(key) is not None]
    if not found:
        return "–"
    return " / ".join(f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in found) + " ms"


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{format_bytes(value)}/s"


class SystemPage:
    """The page."""

    def __init__(self, frame: Frame, feed: SystemFeed) -> None:
        self.frame, self.feed = frame, feed
        self.servers: dict[str, ServerCard] = {}

    def build(self) -> None:
        with Tag("div", classes="top"):
            Tag("h1", "System", "grow")
        self.health = Tag("p", "", "health", role="status")
        with Tag("dl", classes="tiles"):
            self.clients, self.live, self.runs, self.store, self.database = map(
                Tile, ("Clients", "Servers", "Runs under way", "Store", "Database")
            )
        with Tag("section", classes="card", style="margin-bottom:14px", aria_labelledby="picture-title"):
            with Tag("header"):
                Tag("h2", "Who talks to whom", id="picture-title")
                Tag("span", "Numbers are bytes a second, both directions; clients only dial out.", "small muted")
            self.picture = Topology(self._pictures())
        self.cards = Element("div").classes("grid")
        with Tag("div", classes="grid"):
            self.steps = ChartCard(pace.steps(self.feed.moments), "w12", 220, csv="/system/steps.csv", file="system")
        self.show()
        self.frame.watch(self.feed, lambda _: self.show())
        self.frame.reached(self.show)

    def _pictures(self) -> dict[str, Any]:
        return topology.pictures(self.feed.system, self.feed.clients, self.frame.hub.source.absence is not None)

    def show(self) -> None:
        """Show everything as it is now."""
        system = self.feed.system
        found = topology.services(system)
        dark = [s["id"] for s in found if not s["live"]]
        clients = system["clients"]
        if not found:
            self.health.say(f"There is no server. {HINT}")
            self.health.look("health warn")
        elif dark:
            said, mood = topology.silence(system)
            self.health.say(said)
            self.health.look(f"health {mood}")
        else:
            self.health.say("Healthy: every server is live.")
            self.health.look("health good")
        self.clients.show(f"{clients['connected']} of {clients['total']}", "connected")
        self.live.show(f"{len(found) - len(dark)} of {len(found)}", "live")
        by = system.get("runs", {})
        under_way = sum(by.get(state, 0) for state in ("preparing", "running", "finishing"))
        self.runs.show(str(under_way), f"{by.get('queued', 0)} waiting, {by.get('done', 0)} done")
        self.store.show(
            format_bytes(topology.largest(system, "store_bytes")),
            f"ledger {format_bytes(topology.largest(system, 'ledger_bytes'))}",
        )
        self.database.show(format_bytes(system["database"]["bytes"]), str(system["database"]["kind"]))
        self.picture.show(self._pictures())
        self.steps.show(pace.steps(self.feed.moments))
        self._servers(found)

    def _servers(self, found: Sequence[Mapping[str, Any]]) -> None:
        known = {f"{s['kind']}:{s['id']}": s for s in found}
        if list(known) != list(self.servers):
            self.cards.clear()
            with self.cards:
                self.servers = {key: ServerCard(service) for key, service in known.items()}
                if not known:
                    with Tag("div", classes="card w12"):
                        nothing("No server", HINT)
            return
        for key, service in known.items():
            self.servers[key].show(service)


async def build(frame: Frame) -> None:
    """Build the page."""
    await frame.hub.system.ready()
    SystemPage(frame, frame.hub.system).build()


async def steps_of(hub: Hub) -> str:
    """Return the steps a second of the last minutes as CSV."""
    await hub.system.ready()
    return pace.steps(hub.system.moments).csv()
