"""What is drawn is what the files say."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.image import imread

from cutlayer.report import load_run, write_plots
from cutlayer.report.clients import client_accuracy, partition
from cutlayer.report.costs import bytes_by_kind, time_breakdown
from cutlayer.report.plots import CHARTS
from cutlayer.report.progress import accuracy_against_bytes, accuracy_and_loss, overlaid_accuracy
from cutlayer.report.style import spread, within

from .conftest import WriteRun


def data(axes: Axes, line: int) -> tuple[list[float], list[float]]:
    drawn = axes.get_lines()[line]
    return [float(x) for x in np.asarray(drawn.get_xdata())], [float(y) for y in np.asarray(drawn.get_ydata())]


def widths(axes: Axes) -> list[float]:
    (bars,) = [each for each in axes.containers if isinstance(each, BarContainer)]
    return [float(bar.get_width()) for bar in bars]


def test_accuracy_and_loss_are_those_of_the_rounds(write_run: WriteRun) -> None:
    run = load_run(write_run("run", rounds=40, evaluate_every=5)).runs[0]
    made = accuracy_and_loss(run)
    assert made is not None
    upper, lower = made.axes
    evaluated = run.evaluated_rounds
    assert data(upper, 0) == ([r.number for r in evaluated], [r.test_accuracy for r in evaluated])
    trained = run.trained_rounds
    assert data(lower, 0) == ([r.number for r in trained], [r.loss for r in trained])
    assert data(lower, 1)[1] == [r.test_loss for r in evaluated]


def test_accuracy_stands_at_the_bytes_sent_so_far(write_run: WriteRun) -> None:
    run = load_run(write_run("run", rounds=12, evaluate_every=3, bytes_per_round=3 * 1024**2)).runs[0]
    made = accuracy_against_bytes(run)
    assert made is not None
    (axes,) = made.axes
    assert "(MiB)" in axes.get_xlabel()
    sent = np.cumsum([line.bytes_up + line.bytes_down for line in run.rounds]) / 1024**2
    assert data(axes, 0)[0] == pytest.approx([sent[line.number] for line in run.evaluated_rounds])
    assert data(axes, 0)[1] == [line.test_accuracy for line in run.evaluated_rounds]


def test_seeds_are_drawn_with_their_band(write_group: WriteRun) -> None:
    group = load_run(write_group("group", seeds=3, rounds=8))
    made = accuracy_and_loss(group)
    assert made is not None
    upper = made.axes[0]
    each = np.array([[line.test_accuracy for line in run.rounds] for run in group.runs])
    assert data(upper, 3)[1] == pytest.approx(each.mean(axis=0))
    band = upper.collections[0].get_paths()[0].get_extents()
    assert band.ymax == pytest.approx((each.mean(axis=0) + each.std(axis=0, ddof=1)).max())


def test_few_clients_are_drawn_one_by_one_by_name(write_run: WriteRun, hostile_names: list[str]) -> None:
    run = load_run(write_run("run", names=hostile_names, rounds=3)).runs[0]
    made = client_accuracy(run)
    assert made is not None
    lower = made.axes[1]
    dots = sorted(data(lower, i)[0][0] for i in range(1, len(lower.get_lines()), 2))
    assert dots == sorted(run.rounds[-1].client_accuracy.values())
    assert len(lower.get_yticklabels()) == len(hostile_names)


def test_many_clients_are_counted_all(write_run: WriteRun) -> None:
    run = load_run(write_run("run", clients=200, rounds=4)).runs[0]
    made = client_accuracy(run)
    assert made is not None
    upper, lower = made.axes
    heights = [float(bar.get_height()) for each in lower.containers if isinstance(each, BarContainer) for bar in each]
    assert sum(heights) == 200
    accuracies = [sorted(line.client_accuracy.values()) for line in run.rounds]
    assert data(upper, 0)[1] == pytest.approx([float(np.median(values)) for values in accuracies])


def test_bars_add_up_to_what_was_sent(write_run: WriteRun) -> None:
    run = load_run(write_run("run", rounds=5)).runs[0]
    made = bytes_by_kind(run)
    assert made is not None
    kinds, ways = made.axes
    assert widths(ways) == pytest.approx([run.bytes_up / 1024**2, run.bytes_down / 1024**2])
    assert sum(widths(kinds)) == pytest.approx(sum(widths(ways)))
    assert widths(kinds) == sorted(widths(kinds), reverse=True)


def test_bars_add_up_to_the_seconds(write_run: WriteRun) -> None:
    run = load_run(write_run("run", rounds=5)).runs[0]
    made = time_breakdown(run)
    assert made is not None
    assert sum(widths(made.axes[0])) == pytest.approx(run.seconds)
    tops: dict[float, float] = {}
    for bar in made.axes[1].patches:
        tops[bar.get_x()] = tops.get(bar.get_x(), 0) + bar.get_height()
    assert list(tops.values()) == pytest.approx([line.seconds for line in run.trained_rounds])


@pytest.mark.parametrize(("clients", "classes"), [(1, 2), (5, 10), (30, 25)])
def test_circles_have_areas_proportional_to_samples(write_run: WriteRun, clients: int, classes: int) -> None:
    run = load_run(write_run("run", clients=clients, classes=classes, rounds=1))
    made = partition(run)
    assert made is not None
    assert run.partition is not None
    counts = np.array([client.counts for client in run.partition.clients]).ravel()
    areas = made.axes[0].collections[0].get_sizes()
    assert np.allclose(areas / areas.max(), counts / counts.max())


@pytest.mark.parametrize(("clients", "classes"), [(31, 10), (200, 10), (500, 100), (3, 100)])
def test_the_heat_map_holds_every_sample_once(write_run: WriteRun, clients: int, classes: int) -> None:
    run = load_run(write_run("run", clients=clients, classes=classes, rounds=1))
    made = partition(run)
    assert made is not None
    assert run.partition is not None
    counts = np.array([client.counts for client in run.partition.clients])
    shown = np.asarray(made.axes[0].images[0].get_array())
    assert sorted(map(tuple, shown.tolist())) == sorted(map(tuple, counts.astype(float).tolist()))
    assert widths(made.axes[1]) == shown.sum(axis=1).tolist()


def test_overlaid_runs_are_their_curves(write_run: WriteRun) -> None:
    runs = [load_run(write_run("a", rounds=5)), load_run(write_run("b", rounds=7, bytes_per_round=0))]
    made = overlaid_accuracy(runs, ["a", "b $x$"], 0.5, "round")
    (axes,) = made.axes
    for index, run in enumerate(runs):
        assert data(axes, index)[1] == [line.test_accuracy for line in run.runs[0].rounds]
    silent = overlaid_accuracy(runs, ["a", "b"], None, "bytes").axes[0].get_lines()[1]
    assert set(np.asarray(silent.get_ydata()).tolist()) == {runs[1].runs[0].final_accuracy}


OPTIONS = [
    {},
    {"clients": 1, "rounds": 1, "round_zero": False},
    {"optional": False},
    {"finished": False, "torn": True},
    {"bytes_per_round": 0},
    {"scheme": "$\\frac{1}{0$"},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_every_chart_is_a_readable_png(write_run: WriteRun, options: dict[str, object]) -> None:
    folder = write_run("run", **{"rounds": 4, **options})
    written = write_plots(folder)
    assert {path.stem for path in written} >= {"accuracy_and_loss", "client_accuracy", "time_breakdown"}
    assert ("accuracy_against_bytes" in {path.stem for path in written}) == (options.get("bytes_per_round") != 0)
    assert ("partition" in {path.stem for path in written}) == options.get("optional", True)
    for path in written:
        assert path.parent == folder
        assert imread(path).shape[1] >= 1000
    assert not list(folder.glob("*.part"))


def test_a_run_without_rounds_has_no_curves(write_run: WriteRun) -> None:
    folder = write_run("run", rounds=1)
    (folder / "metrics.jsonl").write_text("")
    assert [path.stem for path in write_plots(folder)] == ["partition"]
    assert set(CHARTS) >= {"partition"}


def test_importing_the_package_loads_no_matplotlib() -> None:
    check = "import sys, cutlayer.report; sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", check], cwd=root, check=False).returncode == 0


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 0.1)), max_size=10))
def test_labels_do_not_overlap(labels: Sequence[tuple[float, float]]) -> None:
    labels = sorted(labels)
    sizes = [size for _, size in labels]
    placed = within(spread([wanted for wanted, _ in labels], sizes), sizes)
    for i in range(len(placed) - 1):
        assert placed[i] + sizes[i] / 2 <= placed[i + 1] - sizes[i + 1] / 2 + 1e-9
    if sum(sizes) <= 1 and placed:
        assert placed[0] - sizes[0] / 2 >= -1e-9
        assert placed[-1] + sizes[-1] / 2 <= 1 + 1e-9


def test_runs_that_differ_much_in_bytes_share_a_logarithmic_axis(write_run: WriteRun) -> None:
    for factor, scale in ((3, "linear"), (40, "log")):
        runs = [
            load_run(write_run(f"a{factor}", rounds=4, bytes_per_round=1000)),
            load_run(write_run(f"b{factor}", rounds=4, bytes_per_round=1000 * factor)),
        ]
        (axes,) = overlaid_accuracy(runs, ["a", "b"], None, "bytes").axes
        assert axes.get_xscale() == scale
        assert overlaid_accuracy(runs, ["a", "b"], None, "round").axes[0].get_xscale() == "linear"
