"""A place to write YAML in: lines have numbers, and the wrong one is marked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nicegui.element import Element


class Editor(Element, component=Path(__file__).parent / "editor.js"):
    """``changed`` is called with the text when the writer pauses."""

    def __init__(self, text: str, changed: Callable[[str], Any]) -> None:
        super().__init__()
        self._props["text"] = text
        self.on("changed", lambda e: changed(str(e.args)))

    def point_at(self, line: int | None) -> None:
        """Mark a line, counted from 1, or none."""
        self.run_method("mark", line)

    def write(self, text: str) -> None:
        """Put another text in."""
        self.run_method("write", text)
