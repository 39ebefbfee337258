"""What a person looks at after a run: charts, tables, one page, and runs side by side.

All of it is made from the files of the run folder alone, so a report can be repeated at any time.  Importing this
package loads neither matplotlib nor rich; they come with the first function that needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutlayer.report.comparing import compare
    from cutlayer.report.comparison import Comparison
    from cutlayer.report.page import write_report
    from cutlayer.report.plots import write_plots
    from cutlayer.report.runs import Run, RunGroup, load_run
    from cutlayer.report.tables import compare_table, summary_table
    from cutlayer.report.units import format_bytes, format_seconds

_HOMES = {
    "Comparison": "comparison",
    "Run": "runs",
    "RunGroup": "runs",
    "compare": "comparing",
    "compare_table": "tables",
    "format_bytes": "units",
    "format_seconds": "units",
    "load_run": "runs",
    "summary_table": "tables",
    "write_plots": "plots",
    "write_report": "page",
}

__all__ = [
    "Comparison",
    "Run",
    "RunGroup",
    "compare",
    "compare_table",
    "format_bytes",
    "format_seconds",
    "load_run",
    "summary_table",
    "write_plots",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
