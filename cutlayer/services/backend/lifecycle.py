"""What a run does next: a pure function of its rows.

    run      queued -> preparing -> running -> finishing -> done | failed | cancelled
    round    selected -> training -> closing -> evaluating -> done

`following` looks at a `Picture` and returns the steps that are due, in order; whoever calls it makes them and looks
again, until nothing follows.  A run that is paused makes no steps (what is in flight is accepted), except that one
paused for want of clients goes on as soon as enough are there.

Who may be left behind.  ``quorum`` is the share of a round's clients that must finish it.  A client that is away (not
seen for a while), or late (the round's ``deadline`` has passed), is dropped once the others make the quorum: where each
trains for itself, when so many are done; where they wait for each other, one after another or at a step that they make
together, when those that are done or here are so many.  Of those who make steps together the late one is the one that
has done least.  A client that failed is dropped if so many remain.  With the default quorum of 1 nobody is ever
dropped: the run waits, and past the deadline it says so (paused, cause "quorum").  Before training it is otherwise:
see ``seats``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cutlayer.roles.coordinator import plan
from cutlayer.services.backend import figures, overlapping, seats
from cutlayer.services.backend.picture import (
    Choose,
    Close,
    Create,
    Drop,
    Enter,
    Finish,
    Job,
    Learn,
    Member,
    Move,
    Open,
    Pause,
    Picture,
    Resume,
    Step,
)
from cutlayer.services.protocol import ENDED, PrepareResult, TaskKind

CLOSING: tuple[tuple[TaskKind, ...], ...] = (("finish",), ("aggregate",))
"""What ends the training of a round: one group after another, the tasks of a group at once."""


def following(p: Picture) -> list[Step]:
    """Return the steps that are due; none if the run waits for something."""
    if p.state in ENDED:
        return []
    if p.cause is not None:
        return [Resume()] if p.cause == "quorum" and _enough(p) else []
    stopped = _stopped(p)
    if stopped:
        return stopped
    if p.state == "queued":
        return _queued(p)
    if p.state == "preparing":
        return seats.vacated(p) or _preparing(p)
    if p.state == "finishing":
        return _finishing(p)
    assert p.round is not None
    joining = seats.joining(p)
    if joining:
        return joining
    return {
        "selected": _selected,
        "training": _training,
        "closing": _closing,
        "evaluating": _evaluating,
        "done": _next_round,
    }[p.round.state](p)


def due(p: Picture) -> float | None:
    """Return when the run must be looked at again although nothing happens, None if never."""
    if p.cause is None and p.state == "preparing":
        return seats.late_at(p)
    waits = p.cause is None and p.state == "running" and p.round is not None
    if not waits or p.round is None or p.round.due is None or p.round.state not in ("training", "evaluating"):
        return None
    return p.round.due if p.round.due > p.now else None


def _stopped(p: Picture) -> list[Step]:
    """A task that nobody can do in place of its owner has failed: the run fails, or waits for an operator."""
    for job in p.jobs:
        of_one_client = ("train", "evaluate") if p.state == "preparing" else ("train", "evaluate", "prepare")
        if job.state == "failed" and job.kind not in of_one_client:
            who = p.member(job.number).name if job.kind == "prepare" else f"the {job.target} server"
            sentence = f"{job.kind} failed at {who}: {job.error}"
            return [Pause("failure", sentence)] if job.retryable else [Enter("failed", sentence)]
    return []


def _queued(p: Picture) -> list[Step]:
    if len(p.candidates) < p.terms.minimum:
        return []
    return [Choose(p.candidates[: p.terms.count]), Enter("preparing")]


def _preparing(p: Picture) -> list[Step]:
    prepare = {job.number: job for job in p.of("prepare")}
    missing = [member for member in p.members if member.number not in prepare]
    if missing:
        return [seats.preparation(p, member.number, member.client) for member in missing]
    if any(job.state != "done" for job in prepare.values()):
        return []
    if not p.known:
        return _compared(p, prepare)
    setup = p.of("setup")
    if not setup:
        payload = {"run": p.run, "clients": p.seats, "samples": [member.samples for member in p.members]}
        servers = ["fed"] if p.terms.recipe.server == "none" else ["split", "fed"]
        return [Create("setup", server, payload) for server in servers]
    if any(job.state != "done" for job in setup):
        return []
    return [Enter("running"), _opened(p, 1)]


def _compared(p: Picture, prepare: Mapping[int, Job]) -> list[Step]:
    """Learn what the data look like, if all clients say the same."""
    found = [PrepareResult.model_validate(prepare[member.number].result) for member in p.members]
    first = found[0]
    for member, other in zip(p.members, found, strict=True):
        for what in ("classes", "inputs"):
            if getattr(other, what) != getattr(first, what):
                here, there = (_shown(getattr(r, what)) for r in (first, other))
                return [
                    Enter(
                        "failed",
                        f"all clients must have the same {what}: {p.members[0].name} has {here}, {member.name} has "
                        f"{there}",
                    )
                ]
    example = first.model_dump(mode="json", include={"inputs", "classes", "class_names"})
    return [Learn(example, tuple((r.samples, r.test_samples) for r in found))]


def _opened(p: Picture, number: int) -> Open:
    t, ready = p.terms, [member.number for member in p.ready]
    if t.recipe.asynchronous:
        return Open(number, tuple(ready))
    return Open(number, tuple(ready[i] for i in plan(t.recipe, t.seed, number, len(ready), t.fraction).clients))


def _selected(p: Picture) -> list[Step]:
    return [Move("training", _deadline(p))]


def _training(p: Picture) -> list[Step]:
    assert p.round is not None
    if p.terms.recipe.asynchronous:
        return overlapping.training(p)
    order = p.round.order
    jobs = {job.number: job for job in p.of("train")}
    ends = {job.number: job for job in p.of("end")}
    dropped = [n for n in order if n in jobs and jobs[n].state == "dropped"]
    if p.terms.recipe.server != "none":
        marks: list[Step] = [
            Create("end", "split", {"run": p.run, "round": p.round.number, "client": n}, n)
            for n in dropped
            if n not in ends
        ]
        if marks:
            return marks
    held_up = any(job.state != "done" for job in ends.values())
    left = [n for n in order if n not in jobs or jobs[n].state not in ("done", "dropped")]
    if not left:
        return [] if held_up else [Move("closing", holder=_holder(p, jobs))]
    if p.terms.turnwise:
        if held_up:
            return []
        turn = left[0]
        return _told_to_train(p, [turn]) if turn not in jobs else _without(p, jobs, left, [turn])
    missing = [n for n in order if n not in jobs]
    if missing:
        return _told_to_train(p, missing)
    slowest = sorted(left, key=lambda n: jobs[n].batches)
    return _without(p, jobs, left, slowest if p.terms.together else left)


def _told_to_train(p: Picture, numbers: list[int]) -> list[Step]:
    assert p.round is not None
    round_ = p.round
    steps: list[Step] = []
    for n in numbers:
        payload = {
            "run": p.run,
            "round": round_.number,
            "client": n,
            "turn": round_.order.index(n),
            "giver": _giver(p, n),
            "evaluate": _evaluated(p),
        }
        steps.append(Create("train", _client(p.member(n)), payload, n))
    return steps


def _without(p: Picture, jobs: Mapping[int, Job], left: list[int], awaited: list[int]) -> list[Step]:
    """Drop the first of the ``awaited`` clients that the round can do without, or say that it cannot go on."""
    assert p.round is not None
    needed = p.terms.needed(len(p.round.order))
    done = sum(job.state == "done" for job in jobs.values())
    working = {n for n in left if p.member(n).here and not _failed(jobs, n)}
    overdue = p.round.due is not None and p.now >= p.round.due
    waited_for = p.terms.turnwise or p.terms.together
    for n in sorted(awaited, key=lambda n: n in working):
        name = p.member(n).name
        if _failed(jobs, n):
            if done + len(left) - 1 >= needed:
                return [Drop("train", n, f"{name} failed: {jobs[n].error}")]
            return [
                Pause("quorum", f"{name} failed, and {needed} of {len(p.round.order)} clients must finish a round: "
                      f"{jobs[n].error}")
            ]  # fmt: skip
        away = n not in working
        if (away or overdue) and (done >= needed or (waited_for and done + len(working - {n}) >= needed)):
            return [Drop("train", n, f"{name} is away" if away else f"{name} did not finish before the deadline")]
    if overdue and done + len(working) < needed:
        return [
            Pause(
                "quorum",
                f"{needed} of {len(p.round.order)} clients must finish round {p.round.number}, and of those left only "
                f"{done + len(working)} are there: it goes on when the others are back",
            )
        ]
    return []


def _enough(p: Picture) -> bool:
    """Whether a round that waits for clients can go on."""
    if p.state != "running" or p.round is None or p.round.state != "training":
        return True
    if p.terms.recipe.asynchronous:
        return overlapping.can_go_on(p)
    jobs = {job.number: job for job in p.of("train")}
    done = sum(job.state == "done" for job in jobs.values())
    left = [n for n in p.round.order if n not in jobs or jobs[n].state not in ("done", "dropped")]
    if any(_failed(jobs, n) for n in left):
        return False  # an operator lets it try again
    return done + sum(p.member(n).here for n in left) >= p.terms.needed(len(p.round.order))


def _closing(p: Picture) -> list[Step]:
    assert p.round is not None
    finished = [job.number for job in p.of("train") if job.state == "done"]
    clients = [n for n in p.round.order if n in finished]
    common = {"run": p.run, "round": p.round.number, "clients": clients}
    payloads: dict[TaskKind, dict[str, Any]] = {
        "finish": common,
        "aggregate": {**common, "samples": [p.member(n).samples for n in clients], "holder": p.holder},
    }
    # asynchronous, an update that counts in a round was made of batches that do
    for group in reversed(CLOSING) if p.terms.recipe.asynchronous else CLOSING:
        kinds = [kind for kind in group if kind != "finish" or p.terms.recipe.server != "none"]
        steps: list[Step] = [
            Create(kind, "split" if kind == "finish" else "fed", payloads[kind]) for kind in kinds if not p.of(kind)
        ]
        if steps:
            return steps
        if any(job.state != "done" for kind in kinds for job in p.of(kind)):
            return []
    if not _evaluated(p):
        return [_closed(p)]
    about = {"run": p.run, "round": p.round.number, "holder": p.holder}
    return [
        Move("evaluating", _deadline(p)),
        *(
            Create("evaluate", _client(member), {**about, "client": member.number}, member.number)
            for member in p.ready
            if member.here
        ),
        Create("score", p.terms.scorer, about),
    ]


def _evaluating(p: Picture) -> list[Step]:
    assert p.round is not None
    overdue = p.round.due is not None and p.now >= p.round.due
    open_ = [job for job in p.of("evaluate") if job.state in ("waiting", "leased")]
    for job in open_:
        member = p.member(job.number)
        if overdue or not member.here:
            why = f"{member.name} is away" if not member.here else f"{member.name} did not answer before the deadline"
            return [Drop("evaluate", job.number, why)]
    if open_ or any(job.state != "done" for job in p.of("score")):
        return []
    return [_closed(p)]


def _closed(p: Picture) -> Close:
    assert p.round is not None
    ended = p.now if p.round.trained is None else p.round.trained
    trained = {job.number: job for job in p.of("train")}
    line = figures.line(
        p.round.number,
        figures.merged((job.number, job.result) for job in overlapping.ended(p))
        if p.terms.recipe.asynchronous
        else {n: trained[n].result for n in _finishers(p, trained)},
        {job.number: job.result for job in p.of("evaluate") if job.state == "done"},
        next((job.result for job in p.of("score")), None),
        dropped=[n for n, job in trained.items() if job.state == "dropped"],
        seconds=ended - p.round.started,
        servers={job.kind: job.result.get("seconds", 0.0) for job in (*p.of("finish"), *p.of("aggregate"))},
        evaluation_seconds=p.now - ended,
    )
    return Close(line.metrics, line.evaluation)


def _next_round(p: Picture) -> list[Step]:
    assert p.round is not None
    if p.round.number < p.terms.rounds:
        return [_opened(p, p.round.number + 1)]
    about = {"run": p.run, "round": p.round.number, "holder": p.holder}
    ending: list[Step] = [overlapping.ending()] if p.terms.recipe.asynchronous else []
    return [Enter("finishing"), *ending, Create("conclude", p.terms.scorer, about)]


def _finishing(p: Picture) -> list[Step]:
    conclude = p.of("conclude")
    if any(job.state != "done" for job in conclude):
        return []
    said = conclude[0].result
    return [
        Finish(figures.summary(p.terms.recipe.name, p.terms.seed, len(p.members), p.lines, said)),
        Enter("done"),
    ]


# --- small questions ----------------------------------------------------------------------------------------------


def _client(member: Member) -> str:
    return f"client:{member.client}"


def _failed(jobs: Mapping[int, Job], number: int) -> bool:
    return number in jobs and jobs[number].state == "failed"


def _deadline(p: Picture) -> float | None:
    return None if p.terms.deadline is None else p.now + p.terms.deadline


def _evaluated(p: Picture) -> bool:
    assert p.round is not None
    return p.round.number % p.terms.evaluate_every == 0 or p.round.number == p.terms.rounds


def _finishers(p: Picture, jobs: Mapping[int, Job]) -> Iterator[int]:
    assert p.round is not None
    return (n for n in p.round.order if n in jobs and jobs[n].state == "done")


def _holder(p: Picture, jobs: Mapping[int, Job]) -> int | None:
    """Who has the parts of a relay after this round."""
    return list(_finishers(p, jobs))[-1] if p.terms.recipe.schedule == "relay" else None


def _giver(p: Picture, number: int) -> int | None:
    """Who hands the parts of a relay to this client: the last that finished, in this round or before it."""
    if p.terms.recipe.schedule != "relay":
        return None
    before = list(_finishers(p, {job.number: job for job in p.of("train")}))
    giver = before[-1] if before else p.holder
    return None if giver == number else giver


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{'×'.join(map(str, spec.shape)) or 'a number'} {spec.dtype}" for spec in value)
    return str(value)
