"""Several runs compared, and the comparison written down."""

from collections.abc import Sequence
from pathlib import Path

from cutlayer.report.comparison import Comparison, side_by_side


def compare(paths: Sequence[str | Path], target: float | None = None, out: str | Path | None = None) -> Comparison:
    """Compare the runs in the folders `paths`: see `side_by_side`, which says what is raised.

    With `out` the overlaid charts, `comparison.json` and the page `comparison.html` are written into that folder.
    """
    found = side_by_side(paths, target)
    if out is None:
        return found
    from cutlayer.report.comparison_page import write_comparison  # matplotlib takes its time

    return write_comparison(found, Path(out))
