"""Tables for the terminal."""

from rich.table import Table
from rich.text import Text

from cutlayer.report.comparison import Comparison
from cutlayer.report.curves import measure
from cutlayer.report.describe import algorithm_in_words, algorithm_of, name_of, with_options
from cutlayer.report.runs import AnyRun, RunGroup, mean_std, number
from cutlayer.report.units import (
    MISSING,
    Measured,
    format_bytes,
    format_count,
    format_seconds,
    format_share,
    plus_minus,
)


def summary_table(run: AnyRun) -> Table:
    """What a run reached and cost, one line per figure.  Names are shown literally, whatever markup they hold."""
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _figures(run):
        if value not in ("", MISSING):
            table.add_row(Text(name), Text(value))
    return table


def compare_table(comparison: Comparison) -> Table:
    """One line per run: accuracy, what it took to reach the target, and what the whole run cost."""
    caption = Text(comparison.explanation)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, caption=caption, caption_justify="left")
    table.caption_style = "dim"
    table.add_column("run", overflow="fold", min_width=14)
    for head in (
        "accuracy",
        "bytes\nto target",
        "rounds\nto target",
        "time\nto target",
        "bytes\nin all",
        "time\nin all",
    ):
        table.add_column(head, justify="right")
    for row in comparison.rows:
        table.add_row(*(Text(cell.replace(" ± ", "\n± ")) for cell in row.cells()))
    return table


def _figures(run: AnyRun) -> list[tuple[str, str]]:
    accuracy = measure(run, lambda each: each.final_accuracy)
    best = measure(run, lambda each: each.best_round.test_accuracy if each.best_round else None)
    up, down = measure(run, lambda each: each.bytes_up), measure(run, lambda each: each.bytes_down)
    rate = measure(run, lambda each: number(each.summary.get("samples_per_second")))
    rounds = max((len(each.trained_rounds) for each in run.runs), default=0)
    seeds = f", {len(run.runs)} seeds" if isinstance(run, RunGroup) else ""
    cuts = run.config.get("cuts")
    found = [
        ("algorithm", f"{algorithm_in_words(run)[0]} ({algorithm_of(run)})"),
        ("model", with_options(run.config["model"]) if "model" in run.config else ""),
        ("cut after", name_of(cuts) if cuts else ""),
        ("data", with_options(run.config["data"]) if "data" in run.config else ""),
        ("clients", str(len(run.partition.clients)) if run.partition else ""),
        ("rounds", f"{rounds}{seeds}" + ("" if run.finished else " (unfinished)")),
        ("test accuracy", f"{plus_minus(accuracy, format_share)} (best {plus_minus(best, format_share)})"),
        ("client accuracy", _clients(run)),
        ("sent up", plus_minus(up, format_bytes)),
        ("sent down", plus_minus(down, format_bytes)),
        ("time", plus_minus(measure(run, lambda each: each.seconds), format_seconds)),
        ("speed", f"{format_count(rate.mean)} samples/s" if isinstance(rate, Measured) else ""),
        ("folder", str(run.path)),
    ]
    return [(name, "" if accuracy is None and name == "test accuracy" else value) for name, value in found]


def _clients(run: AnyRun) -> str:
    lines = [each.last_client_round for each in run.runs]
    accuracies = [accuracy for line in lines if line for accuracy in line.client_accuracy.values()]
    if len(accuracies) < 2:
        return ""
    mean, _ = mean_std(accuracies)
    return f"mean {format_share(mean)}, from {format_share(min(accuracies))} to {format_share(max(accuracies))}"
