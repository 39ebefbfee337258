"""Who has which number: clients that do not come to prepare lose theirs, and clients that come later get a free one.

As long as a client has not prepared nothing in the store depends on its number.  So one that is away, or late (the
``deadline``), loses it to the first by name of those that fit and are here; where there is none before training, the
run is queued again instead of waiting for one that may never come back.

With ``clients.join`` a run has ``clients.count`` numbers, however many it began with.  Whoever fits and comes while it
goes on gets a free one, prepares, and may be part of the next round; a number that has trained is its client's for
ever, since what it left in the store is under that number.
"""

from __future__ import annotations

from cutlayer.services.backend.picture import Create, Job, Member, Picture, Refuse, Requeue, Seat, Step, Welcome
from cutlayer.services.protocol import PrepareResult

OPEN = ("waiting", "leased")


def preparation(p: Picture, number: int, client: str) -> Create:
    """Return the task of a client that has got its number."""
    return Create("prepare", f"client:{client}", {"run": p.run, "client": number, "clients": p.seats}, number, 0)


def vacated(p: Picture) -> list[Step]:
    """Return what is due because clients that should prepare do not: others in their places, or a queued run."""
    if p.known:
        return []
    steps = _replaced(p, p.members)
    away = [member.name for member in p.members if not member.here]
    if steps or not away:
        return steps
    labels = ", ".join(f"{key}={value}" for key, value in p.require.items())
    return [
        Requeue(
            f"{', '.join(away)} went away before training began, and nobody who fits is free: the run begins when "
            f"{p.terms.minimum} clients{f' with {labels}' if labels else ''} are there"
        )
    ]


def joining(p: Picture) -> list[Step]:
    """Return what is due about clients that come while the run goes on."""
    if not p.terms.join or p.round is None or p.round.number >= p.terms.rounds:
        return []
    new = [member for member in p.members if member.samples is None]
    for member in new:
        job = _job(p, member)
        if job is None:
            return [preparation(p, member.number, member.client)]
        if job.state == "done":
            return [_compared(p, member, job)]
        if job.state == "failed":
            return [Refuse(member.number, f"{member.name} cannot prepare: {job.error}")]
    steps = _replaced(p, tuple(new))
    taken = {member.number for member in p.members}
    free = (n for n in range(p.terms.count) if n not in taken)
    return steps or [Seat(n, client) for n, client in zip(free, _spare(p), strict=False)]


def late_at(p: Picture) -> float | None:
    """Return when the next client is late with preparing, None if none will be."""
    if p.terms.deadline is None or p.known:
        return None
    times = [job.since + p.terms.deadline for job in p.of("prepare") if job.state in OPEN]
    return min((time for time in times if time > p.now), default=None)


def _replaced(p: Picture, members: tuple[Member, ...]) -> list[Step]:
    missed = {member.number: why for member in members if (why := _missed(p, member)) is not None}
    return [Seat(number, client, why) for (number, why), client in zip(missed.items(), _spare(p), strict=False)]


def _spare(p: Picture) -> list[str]:
    """Return the candidates, without those that could not prepare for this run."""
    failed = {job.target for job in p.of("prepare") if job.state == "failed"}
    return [client for client in p.candidates if f"client:{client}" not in failed]


def _missed(p: Picture, member: Member) -> str | None:
    """Return why a client loses its number, None if it does not."""
    if not member.here:
        return f"{member.name} is away"
    job = _job(p, member)
    if job is None or job.state not in OPEN or p.terms.deadline is None:
        return None
    late = p.now >= job.since + p.terms.deadline
    return f"{member.name} did not prepare before the deadline" if late else None


def _compared(p: Picture, member: Member, job: Job) -> Step:
    """Welcome a client whose data are like the others'."""
    found = PrepareResult.model_validate(job.result)
    said = found.model_dump(mode="json", include={"inputs", "classes"})
    for what, value in said.items():
        if p.example is not None and p.example[what] != value:
            return Refuse(member.number, f"{member.name} has other {what} than the clients of this run")
    return Welcome(member.number, found.samples, found.test_samples)


def _job(p: Picture, member: Member) -> Job | None:
    target = f"client:{member.client}"
    return next((job for job in p.of("prepare") if job.number == member.number and job.target == target), None)
