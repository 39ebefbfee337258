"""The picture of the system on the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nicegui.element import Element


class Topology(Element, component=Path(__file__).parent / "topology.js", default_classes="topology"):
    """Draws what `topology.pictures` returns."""

    def __init__(self, pictures: dict[str, Any]) -> None:
        super().__init__()
        self._props.update(pictures)
        self._pictures = pictures

    def show(self, pictures: dict[str, Any]) -> None:
        """Draw the next picture."""
        if pictures != self._pictures:
            self._pictures = pictures
            self.run_method("show", pictures)
