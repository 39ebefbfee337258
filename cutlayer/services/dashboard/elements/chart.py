"""A chart on the page: drawn by the ECharts that NiceGUI ships, fed with what has changed."""

from __future__ import annotations

from pathlib import Path

import nicegui.elements.echart  # noqa: F401 (makes ECharts known to the page)
from nicegui.element import Element

from cutlayer.services.dashboard.charts.chart import Chart, change

HERE = Path(__file__).parent


class ChartArea(Element, component=HERE / "chart.js", default_classes="chart-area"):
    """The drawing of a `Chart`; ``show`` sends what is different in the next one.

    It is ``ui.echart`` with what a live page needs beside: points are appended instead of sent again, the theme can
    change, it is drawn when it comes into sight, and no option is code.
    """

    def __init__(self, chart: Chart, height: int) -> None:
        super().__init__()
        self.chart = chart
        self._props["name"] = chart.name
        self._props["height"] = height
        self._props.update(chart.as_props())

    def show(self, chart: Chart) -> None:
        """Draw the next chart."""
        changed = change(self.chart, chart)
        self.chart = chart
        if changed:
            self.run_method("feed", changed)

    def resize(self, height: int) -> None:
        """Give the drawing another height in pixels."""
        self.run_method("stretch", height)

    def export(self, file: str) -> None:
        """Let the browser save the picture."""
        self.run_method("save", self.chart.title, file)
