"""A long list of sentences, of which only those in sight are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nicegui.element import Element


class EventList(Element, component=Path(__file__).parent / "events.js"):
    """Events, the newest first, as rows {id, at, text, mood}; ``older`` is called when its end comes into sight."""

    def __init__(self, rows: Sequence[dict[str, Any]], older: Callable[[int], Any]) -> None:
        super().__init__()
        self._props["rows"] = list(rows)
        self.on("older", lambda e: older(int(e.args)))

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Put new events at the top."""
        if rows:
            self.run_method("add", list(rows))

    def extend(self, rows: Sequence[dict[str, Any]]) -> None:
        """Put older events at the end; none means that there are no more."""
        self.run_method("extend", list(rows))

    def replace(self, rows: Sequence[dict[str, Any]]) -> None:
        """Show other events."""
        self.run_method("replace", list(rows))
