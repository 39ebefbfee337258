"""Pieces of an HTML page that stands alone: escaped text, tables, cards, embedded pictures, one style sheet.

Every function returns markup; every argument named `text`, `cells`, `caption`, ... is plain text and is escaped here.
The page carries a content security policy that allows its own style sheet (by hash) and embedded pictures, and nothing
else: it can load nothing from anywhere, and no script.
"""

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path


def document(title: str, body: str) -> str:
    """A complete page."""
    css = files("cutlayer.report").joinpath("report.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{text(title)}</title>\n<style>{css}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def text(value: object) -> str:
    """Escaped for elements and attributes; characters that HTML does not allow, or that turn writing round, as □."""
    shown = "".join(c if c.isprintable() or c in "\n\t\u202f" else "□" for c in str(value))
    return escape(shown, quote=True)


def section(heading: str, content: str) -> str:
    """A headed section, or nothing where there is no content."""
    return f"<section>\n<h2>{text(heading)}</h2>\n{content}\n</section>" if content else ""


def paragraph(words: str, kind: str = "") -> str:
    return f'<p class="{kind}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>"


def cards(figures: Sequence[tuple[str, str, str]]) -> str:
    """Headline figures: (what it is, the figure, a remark)."""
    each = "\n".join(
        f'<div class="card"><dt>{text(what)}</dt><dd><strong>{text(figure)}</strong><small>{text(remark)}</small></dd>'
        "</div>"
        for what, figure, remark in figures
    )
    return f'<dl class="cards">\n{each}\n</dl>'


def picture(path: Path, alternative: str, caption: str) -> str:
    """A PNG file, embedded."""
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{text(alternative)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    bars: Sequence[float | None] = (),
    at: int = -1,
    narrow: bool = False,
) -> str:
    """A table whose first column is a name.  `bars`: one share of 1 per row, drawn beside the number in column `at`."""
    lines = [f'<div class="scroll{" narrow" if narrow else ""}"><table>', "<thead><tr>"]
    lines += [f'<th scope="col"{_name(index)}>{text(cell)}</th>' for index, cell in enumerate(head)]
    lines.append("</tr></thead><tbody>")
    for number, cells in enumerate(rows):
        written = [f'<th scope="row" class="name">{text(cells[0])}</th>']
        for index, cell in enumerate(cells[1:], 1):
            drawn = _bar(bars[number]) if bars and index == at else ""
            written.append(f"<td>{text(cell)}{drawn}</td>")
        lines.append(f"<tr>{''.join(written)}</tr>")
    lines.append("</tbody></table></div>")
    return "\n".join(lines)


def folded(summary: str, content: str, *, shown: bool = False) -> str:
    """Content that opens with a click on its summary."""
    return f"<details{' open' if shown else ''}><summary>{text(summary)}</summary>\n{content}\n</details>"


def code(words: str) -> str:
    return f"<pre><code>{text(words)}</code></pre>"


def _name(index: int) -> str:
    return ' class="name"' if index == 0 else ""


def _bar(share: float | None) -> str:
    width = 0.0 if share is None else 60 * min(max(share, 0.0), 1.0)
    return (
        '<svg width="60" height="10" aria-hidden="true"><rect class="bar-back" width="60" height="10" rx="2"/>'
        f'<rect class="bar-fill" width="{width:.1f}" height="10" rx="2"/></svg>'
    )
