"""The rounds of an asynchronous run: clients go through their samples again and again, and nobody waits.

A ``train`` task is a client's pass over its samples, and its "round" is the number of that pass.  What is called a
round ends when so many more passes are done as clients work at once; those in the middle of one go on.  A client that
is away keeps its pass, and goes on when it is back; meanwhile another may work in its place.
"""

from __future__ import annotations

from cutlayer.seeds import shuffled
from cutlayer.services.backend.picture import Cancel, Create, Job, Move, Pause, Picture, Step


def training(p: Picture) -> list[Step]:
    """Return the steps of a round in which clients train."""
    assert p.round is not None
    if p.passed >= p.round.number * working(p):
        return [Move("closing")]
    open_ = {job.number: job for job in p.of("train") if job.state in ("waiting", "leased")}
    failed = {job.number: job for job in p.of("train") if job.state == "failed"}
    at_work = [n for n in open_ if p.member(n).here]
    idle = [m.number for m in p.members if m.here and m.number not in open_ and m.number not in failed]
    free = working(p) - len(at_work)
    if free > 0 and idle:
        drawn = shuffled(len(idle), p.terms.seed, "next", p.passed, len(open_))
        return [_pass(p, n) for n in sorted(idle[i] for i in drawn[:free])]
    if failed and len(failed) == len(p.members):
        number, job = next(iter(failed.items()))
        return [Pause("quorum", f"all clients failed; {p.member(number).name}: {job.error}")]
    return []


def working(p: Picture) -> int:
    """How many clients work at the same time."""
    return max(1, round(p.terms.fraction * len(p.members)))


def can_go_on(p: Picture) -> bool:
    """Whether a run that waits for clients need not wait any longer."""
    return any(job.state != "failed" for job in p.of("train"))


def ending() -> Cancel:
    """Return the step that ends the passes that nobody waits for any more."""
    return Cancel("train")


def ended(p: Picture) -> list[Job]:
    """Return the passes that ended in the round."""
    return [job for job in p.of("train") if job.state == "done"]


def _pass(p: Picture, number: int) -> Create:
    assert p.round is not None
    passes = p.passes.get(number, 0) + 1
    payload = {
        "run": p.run,
        "round": passes,
        "within": p.round.number,
        "client": number,
        "turn": 0,
        "giver": None,
        "evaluate": False,
    }
    return Create("train", f"client:{p.member(number).client}", payload, number, passes)
