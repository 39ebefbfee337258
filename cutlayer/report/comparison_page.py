"""`comparison.html`, its charts and `comparison.json`."""

import json
from dataclasses import replace
from pathlib import Path

from cutlayer.report import document as html
from cutlayer.report import style
from cutlayer.report.comparison import Comparison
from cutlayer.report.describe import differences
from cutlayer.report.progress import overlaid_accuracy
from cutlayer.report.units import MISSING, format_share

CAPTIONS = {
    "bytes": "Bytes are those of the encoded messages of all clients, labels and headers included.",
    "round": "Accuracy on the global test set; bands are one standard deviation over the seeds.",
    "seconds": "Wall-clock time of the computation; comparable only between runs on the same machine.",
}


def write_comparison(comparison: Comparison, folder: Path) -> Comparison:
    """Write charts, JSON and page into `folder` (made if missing), and return the comparison with its files."""
    folder.mkdir(parents=True, exist_ok=True)
    named = [row.label for row in comparison.rows]
    charts = {
        against: style.save(
            overlaid_accuracy(comparison.runs, named, comparison.target, against),
            folder / f"accuracy_against_{against}.png",
        )
        for against in CAPTIONS
    }
    page = folder / "comparison.html"
    page.write_text(_page(comparison, charts), encoding="utf-8")
    plain = folder / "comparison.json"
    made = replace(comparison, files=(*charts.values(), plain, page))
    plain.write_text(json.dumps(made.to_json(), indent=2, ensure_ascii=False), encoding="utf-8")
    return made


def _page(comparison: Comparison, charts: dict[str, Path]) -> str:
    target = format_share(comparison.target)
    head = ["run", "accuracy", f"bytes to {target}", f"rounds to {target}", f"time to {target}", "bytes", "time"]
    pictures = "\n".join(
        html.picture(path, f"Chart: test accuracy of {len(comparison.rows)} runs against {against}", CAPTIONS[against])
        for against, path in charts.items()
    )
    title = f"Comparison of {len(comparison.rows)} runs"
    body = [
        f"<header>\n<h1>{html.text(title)}</h1>",
        html.paragraph(comparison.explanation, "muted"),
        *(html.paragraph(note, "notice") for note in comparison.notes),
        "</header>",
        html.section("Results", html.table(head, [row.cells() for row in comparison.rows])),
        html.section("Curves", f'<div class="charts">\n{pictures}\n</div>'),
        html.section("What differs", _differences(comparison)),
    ]
    return html.document(title, "\n".join(part for part in body if part))


def _differences(comparison: Comparison) -> str:
    found = differences([run.config for run in comparison.runs])
    keys = list(dict.fromkeys(key for each in found for key in each))
    rows = [
        [row.label, *(each.get(key, MISSING) for key in keys), str(row.path)]
        for row, each in zip(comparison.rows, found, strict=True)
    ]
    same = "" if keys else html.paragraph("The configurations are the same.", "muted")
    return same + html.table(["run", *keys, "folder"], rows)
