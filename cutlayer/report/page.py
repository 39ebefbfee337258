"""`report.html`: one run on one page that can be sent to somebody who has never seen cutlayer."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cutlayer.report import document as html
from cutlayer.report.costs import words
from cutlayer.report.curves import measure
from cutlayer.report.describe import algorithm_in_words, algorithm_of, name_of, with_options
from cutlayer.report.plots import write_charts
from cutlayer.report.runs import AnyRun, Round, Run, RunGroup, load_run, number, planned
from cutlayer.report.units import (
    MISSING,
    format_bytes,
    format_count,
    format_number,
    format_seconds,
    format_share,
    plus_minus,
)

MOST_ROWS = 500  # a longer table of rounds is thinned out; metrics.jsonl has them all
CAPTIONS = {
    "accuracy_and_loss": "Accuracy on the global test set, which no client trained on, and mean loss per sample.",
    "accuracy_against_bytes": "Bytes are those of the encoded messages, labels and headers included.",
    "client_accuracy": "The same model, or the client's own where it keeps one, on each client's own test samples.",
    "bytes_by_kind": "What the clients sent up and what came down, summed over the rounds.",
    "time_breakdown": "Wall-clock time of the computation on one machine; transmission over a network is not in it.",
    "partition": "Training samples of each label at each client.",
}


def write_report(run_folder: str | Path) -> Path:
    """Write the charts and `report.html` into the run folder, and return the page.

    Raises RunFolderError if the folder holds no run.  An unfinished run is reported as far as it came.
    """
    run = load_run(run_folder)
    charts = write_charts(run)
    path = run.path / "report.html"
    unfinished = path.with_name("report.html.part")
    unfinished.write_text(page(run, charts), encoding="utf-8")
    unfinished.replace(path)
    return path


def page(run: AnyRun, charts: Mapping[str, Path]) -> str:
    """The markup of the report, with the PNG files `charts` embedded."""
    title, sentence = algorithm_in_words(run)
    what = f"{name_of(run.config['model'])} on {name_of(run.config['data'])}" if _has(run, "model", "data") else ""
    pictures = "\n".join(html.picture(charts[name], _alternative(name, run), _caption(name, run)) for name in charts)
    body = [
        f"<header>\n<h1>{html.text(title)}{html.text(f': {what}' if what else '')}</h1>",
        html.paragraph(sentence, "muted") if sentence else "",
        html.paragraph(_facts(run)),
        *(html.paragraph(notice, "notice") for notice in notices(run)),
        html.cards(_headlines(run)),
        "</header>",
        html.section("Results", f'<div class="charts">\n{pictures}\n</div>' if pictures else ""),
        html.section("What each side holds", _sides(run)),
        html.section("Seeds", _seeds(run)),
        html.section("Rounds", _rounds(run)),
        html.section("Clients", _clients(run)),
        html.section("What was run", _what_was_run(run)),
        html.section("Environment", _environment(run)),
        f"<footer>Written by cutlayer from the files in {html.text(run.path.resolve().name)}.</footer>",
    ]
    return html.document(f"{title}: {what}" if what else title, "\n".join(part for part in body if part))


def notices(run: AnyRun) -> list[str]:
    """What a reader must know before the numbers: the run is unfinished, or seeds are missing."""
    found = []
    for each in run.runs:
        wanted, came = planned(each.config, "rounds", 0), len(each.trained_rounds)
        of = f" of {wanted}" if wanted else ""
        name = f"{each.path.name}: this run" if isinstance(run, RunGroup) else "This run"
        if not each.finished:
            found.append(f"{name} is unfinished: {came}{of} rounds are there, and the figures are those so far.")
    wanted = planned(run.config, "seeds", len(run.runs))
    if isinstance(run, RunGroup) and wanted > len(run.runs):
        found.append(f"{len(run.runs)} of {wanted} seeds are there.")
    return found


def _has(run: AnyRun, *keys: str) -> bool:
    return all(run.config.get(key) is not None for key in keys)


def _headlines(run: AnyRun) -> list[tuple[str, str, str]]:
    accuracy = measure(run, lambda each: each.final_accuracy)
    best = measure(run, lambda each: each.best_round.test_accuracy if each.best_round else None)
    up, down = measure(run, lambda each: each.bytes_up), measure(run, lambda each: each.bytes_down)
    seconds = measure(run, lambda each: each.seconds)
    rounds = max((len(each.trained_rounds) for each in run.runs), default=0)
    peak = f"best {plus_minus(best, format_share)}"
    if isinstance(run, Run) and run.best_round:
        latest = run.best_round == run.evaluated_rounds[-1]
        peak = (
            "the best of all rounds" if latest else f"{peak} at round {run.best_round.number}, chosen on the test set"
        )
    seeds = f"mean ± standard deviation of {len(run.runs)} seeds; " if isinstance(run, RunGroup) else ""
    speed = measure(run, lambda each: number(each.summary.get("samples_per_second")))
    remark = f"{format_count(speed.mean)} samples a second" if speed else ""
    per_round = (
        f"{format_bytes((up.mean + down.mean) / rounds)} a round"
        if up and down and rounds and up.mean + down.mean
        else ""
    )
    found = [
        ("Test accuracy, last round", plus_minus(accuracy, format_share), f"{seeds}{peak}"),
        ("Sent up", format_bytes(up.mean if up else None), "all clients, all rounds"),
        ("Sent down", format_bytes(down.mean if down else None), f"up and down {per_round}" if per_round else ""),
        ("Time", format_seconds(seconds.mean if seconds else None), remark),
        ("Clients", _how_many_clients(run), with_options(run.config["partition"]) if _has(run, "partition") else ""),
        ("Rounds", f"{rounds}", _effort(run)),
    ]
    return [card for card in found if card[1] not in ("", MISSING) or card[0].startswith("Test")]


def _facts(run: AnyRun) -> str:
    """Model, cut, data and algorithm, as configured, in one line."""
    cut = _cut(run)
    facts = {
        "Algorithm": with_options(run.config.get("algorithm", algorithm_of(run))),
        "model": with_options(run.config["model"]) if _has(run, "model") else "",
        "cut after": cut,
        "data": with_options(run.config["data"]) if _has(run, "data") else "",
    }
    return " · ".join(f"{name} {value}" for name, value in facts.items() if value)


def _how_many_clients(run: AnyRun) -> str:
    if run.partition is not None:
        return str(len(run.partition.clients))
    last = run.runs[0].last_client_round
    return str(len(last.client_accuracy)) if last else name_of(run.config.get("clients", ""))


def _effort(run: AnyRun) -> str:
    named = {"local_epochs": "local epochs", "batch_size": "batch size"}
    return ", ".join(f"{word} {name_of(run.config[key])}" for key, word in named.items() if _has(run, key))


def _cut(run: AnyRun) -> str:
    if algorithm_of(run) in ("centralized", "local", "fedavg"):
        return ""
    cuts = (run.model or {}).get("cuts") or run.config.get("cuts")
    return name_of(cuts) if cuts else ""


def _caption(name: str, run: AnyRun) -> str:
    if name == "time_breakdown" and run.summary.get("engine") == "services":
        return (
            "Wall-clock time of the rounds, as the clients spent it: at work, or waiting for the servers, transmission "
            "included."
        )
    return CAPTIONS[name]


def _alternative(name: str, run: AnyRun) -> str:
    """What the picture shows, for somebody who does not see it."""
    last = measure(run, lambda each: each.final_accuracy)
    up, down = measure(run, lambda each: each.bytes_up), measure(run, lambda each: each.bytes_down)
    end = f"ends at {plus_minus(last, format_share)}"
    sent = format_bytes((up.mean if up else 0) + (down.mean if down else 0))
    return {
        "accuracy_and_loss": f"Chart: test accuracy and loss per round; accuracy {end}",
        "accuracy_against_bytes": f"Chart: test accuracy against bytes sent; {end} after {sent}",
        "client_accuracy": "Chart: accuracy of each client on its own test split; the numbers are in the clients table",
        "bytes_by_kind": f"Chart: bytes by kind of message and by direction, {sent} in total",
        "time_breakdown": "Chart: seconds by part of the computation, in total and per round",
        "partition": "Chart: number of training samples of each label at each client; also in the clients table",
    }[name]


def _sides(run: AnyRun) -> str:
    model = run.model or {}
    parts = model.get("parts") or {n: {"parameters": c} for n, c in (_parameters(run)).items()}
    if not isinstance(parts, Mapping) or not parts:
        return ""
    crossings = [each for each in model.get("crossings") or () if isinstance(each, Mapping)]
    cuts = list(dict.fromkeys(str(each.get("cut", "")) for each in crossings)) or [
        str(c) for c in model.get("cuts") or ()
    ]
    whole = {"centralized": "server", "local": "client", "fedavg": "client"}.get(algorithm_of(run))
    drawn = []
    for index, (name, part) in enumerate(parts.items()):
        part = part if isinstance(part, Mapping) else {}
        side = whole or str(part.get("side") or ("server" if name == "backbone" else "client"))
        lines = [f"{format_count(number(part.get('parameters')))} parameters"]
        if number(part.get("flops")) is not None:
            lines.append(f"{format_count(number(part.get('flops')))} FLOPs per sample")
        content = "".join(html.paragraph(line) for line in lines)
        where = "server" if side == "server" else "client"
        place = "on the server" if where == "server" else "at each client"
        drawn.append(f'<div class="side {where}"><h3>{html.text(name)}, {place}</h3>{content}</div>')
        if not whole and index < len(cuts) and index + 1 < len(parts):
            drawn.append(_crossing(cuts[index], [e for e in crossings if str(e.get("cut", "")) == cuts[index]]))
    flow = f'<div class="sides">\n{"".join(drawn)}\n</div>'
    if whole:
        return html.paragraph("Nothing is cut in this algorithm: the whole model is in one place.", "muted") + flow
    method = f" The model was cut with {model['method']}." if model.get("method") else ""
    return flow + "<br>" + html.paragraph(f"{_labels(run)}{method}".strip(), "muted")


def _crossing(cut: str, crossings: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for each in crossings:
        shape = each.get("shape")
        size = "×".join(str(n) for n in shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else ""
        lines.append(f"{size}, {format_bytes(number(each.get('bytes')))} per sample".strip(", "))
    inner = "".join(html.paragraph(line, "muted") for line in lines)
    return f'<div class="crossing"><p>{html.text(cut)}</p><span class="arrow" aria-hidden="true">→</span>{inner}</div>'


def _parameters(run: AnyRun) -> Mapping[str, Any]:
    parameters = run.runs[0].summary.get("parameters")
    return parameters if isinstance(parameters, Mapping) else {}


def _labels(run: AnyRun) -> str:
    """Whether labels crossed the cut, as counted."""
    counted = [line.bytes for each in run.runs for line in each.rounds if line.bytes]
    if not counted:
        return ""
    sent = sum(kinds.get("labels", 0.0) for kinds in counted) / len(run.runs)
    return f"Labels were sent to the server ({format_bytes(sent)})." if sent else "No labels were sent to the server."


def _seeds(run: AnyRun) -> str:
    if not isinstance(run, RunGroup):
        return ""
    rows = [
        [
            each.path.name,
            format_share(each.final_accuracy),
            format_share(each.best_round.test_accuracy if each.best_round else None),
            str(len(each.trained_rounds)),
            format_bytes(each.bytes_up),
            format_bytes(each.bytes_down),
            format_seconds(each.seconds),
        ]
        for each in run.runs
    ]
    return html.table(["run", "accuracy", "best accuracy", "rounds", "sent up", "sent down", "time"], rows)


def _rounds(run: AnyRun) -> str:
    tables = []
    for each in run.runs:
        if not each.rounds:
            continue
        every = -(-len(each.rounds) // MOST_ROWS)
        kept = [r for i, r in enumerate(each.rounds) if i % every == 0 or i == len(each.rounds) - 1]
        thinned = f", every {every}th of them (metrics.jsonl has all)" if every > 1 else ""
        seed = f"{each.path.name}: " if isinstance(run, RunGroup) else ""
        head = ["round", "test accuracy", "test loss", "training loss", "sent up", "sent down", "time", "samples"]
        shown = html.table(head, [_round_row(line) for line in kept])
        tables.append(html.folded(f"{seed}table of {len(each.rounds)} rounds{thinned}", shown))
    return "\n".join(tables) or html.paragraph("No round has finished yet.", "muted")


def _round_row(line: Round) -> list[str]:
    return [
        "0, untrained" if line.number == 0 else str(line.number),
        format_share(line.test_accuracy),
        format_number(line.test_loss),
        format_number(line.loss),
        format_bytes(line.bytes_up),
        format_bytes(line.bytes_down),
        format_seconds(line.seconds),
        format_count(line.samples),
    ]


def _clients(run: AnyRun) -> str:
    first = run.runs[0]
    last = first.last_client_round
    held = {client.name: client for client in first.partition.clients} if first.partition else {}
    names = list(dict.fromkeys([*held, *(last.client_accuracy if last else ())]))
    if not names:
        return ""
    classes = first.partition.classes if first.partition else ()
    samples = next((line.client_samples for line in reversed(first.rounds) if line.client_samples), {})
    rows, bars = [], []
    for name in names:
        client = held.get(name)
        training = sum(client.counts) if client else samples.get(name)
        accuracy = last.client_accuracy.get(name) if last else None
        rows.append(
            [
                name,
                format_share(accuracy),
                format_count(training),
                format_count(client.test if client else None),
                _largest(client.counts, classes) if client else MISSING,
                format_number(last.client_loss.get(name) if last else None),
            ]
        )
        bars.append(accuracy)
    head = ["client", "accuracy", "training samples", "test samples", "largest label", "loss"]
    shown = html.table(head, rows, bars=bars, at=1)
    where = f" of {first.path.name}" if isinstance(run, RunGroup) else ""
    when = f", accuracy at round {last.number}" if last else ""
    return html.folded(
        f"table of {len(names)} {'client' if len(names) == 1 else 'clients'}{where}{when}",
        shown,
        shown=len(names) <= 12,
    )


def _largest(counts: Sequence[int], classes: Sequence[str]) -> str:
    if not counts or not sum(counts):
        return MISSING
    top = max(range(len(counts)), key=lambda index: counts[index])
    return f"{classes[top]} ({format_share(counts[top] / sum(counts), 0)})"


def _what_was_run(run: AnyRun) -> str:
    command = run.summary.get("command") or run.runs[0].summary.get("command")
    if isinstance(command, list):
        command = shlex.join(str(part) for part in command)
    said = "The command of this run:" if command else "The configuration below, saved as config.yaml, repeats this run:"
    config = yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    shown = [html.paragraph(said), html.code(str(command or "cutlayer run config.yaml out=REPEATED"))]
    if run.config:
        shown.append(html.folded("config.yaml, with every default written out", html.code(config)))
    return "\n".join(shown)


def _environment(run: AnyRun) -> str:
    summary = run.runs[0].summary
    versions = summary.get("versions")
    known = {
        "seed" if len(run.runs) == 1 else "seeds": ", ".join(name_of(each.config.get("seed")) for each in run.runs),
        "device": summary.get("device"),
        **(versions if isinstance(versions, Mapping) else {}),
    }
    rows = [[words(str(key)), name_of(value)] for key, value in known.items() if value not in (None, "")]
    return html.table(["", "version or value"], rows, narrow=True) if summary else ""
