"""Tables for the terminal."""

from rich.console import Console
from rich.table import Table

import cutlayer.report
from cutlayer.report import compare, compare_table, load_run, summary_table
from cutlayer.report.units import format_bytes, format_share

from .conftest import WriteRun


def shown(table: Table, width: int = 200) -> str:
    console = Console(width=width, record=True, file=None, quiet=True)
    with console.capture() as capture:
        console.quiet = False
        console.print(table)
    return capture.get()


def test_the_summary_holds_the_figures(write_run: WriteRun) -> None:
    run = load_run(write_run("run", rounds=4, config={"model": "[red]x[/nothing]"}))
    said = shown(summary_table(run))
    assert format_share(run.runs[0].final_accuracy) in said
    assert format_bytes(run.runs[0].bytes_up) in said
    assert "[red]x[/nothing]" in said
    assert "unfinished" not in said


def test_an_unfinished_run_and_seeds_are_named(write_run: WriteRun, write_group: WriteRun) -> None:
    assert "2 (unfinished)" in shown(summary_table(load_run(write_run("run", rounds=4, finished=False))))
    said = shown(summary_table(load_run(write_group("group", seeds=2, rounds=4))))
    assert "2 seeds" in said
    assert "±" in said


def test_a_comparison_has_a_line_for_each_run(write_run: WriteRun) -> None:
    made = compare([write_run("a", rounds=4), write_run("b", rounds=4, algorithm="psl")])
    said = shown(compare_table(made))
    for row in made.rows:
        assert all(cell in said for cell in row.cells())
    assert made.explanation.split() == said.split()[-len(made.explanation.split()) :]


def test_a_comparison_of_seeds_fits_a_terminal(write_group: WriteRun) -> None:
    groups = [write_group(name, seeds=3, rounds=40, bytes_per_round=size) for name, size in (("a", 3e3), ("b", 7e6))]
    made = compare(groups)
    said = shown(compare_table(made), width=80)
    for row in made.rows:
        assert all(piece in said for cell in row.cells()[1:] for piece in cell.split(" ± "))


def test_the_public_names() -> None:
    for name in cutlayer.report.__all__:
        assert getattr(cutlayer.report, name).__name__ == name
