"""Names that a field offers while one types."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nicegui.element import Element


class Names(Element, component=Path(__file__).parent / "names.js"):
    """A ``datalist``; a field takes it by its ``list``."""

    def __init__(self, list_id: str, names: Sequence[str]) -> None:
        super().__init__()
        self._props["list"] = list_id
        self._props["names"] = list(names)
