"""Who sits where before training: the places of clients that are away or late are given to others.

As long as the clients prepare nothing in the store depends on who has which number.  So a client that is away, or did
not prepare before the ``deadline``, loses its place to the first by name of those that fit and are here; where there is
none, the run is queued again instead of waiting for one that may never come back.
"""

from __future__ import annotations

from cutlayer.services.backend.picture import Member, Picture, Requeue, Seat, Step


def vacated(p: Picture) -> list[Step]:
    """Return what is due because clients that should prepare do not: others in their places, or a queued run."""
    if p.known:
        return []
    spare = list(p.candidates)
    missed = {member.number: why for member in p.members if (why := _missed(p, member)) is not None}
    steps: list[Step] = [
        Seat(number, client, why) for (number, why), client in zip(missed.items(), spare, strict=False)
    ]
    away = [member.name for member in p.members if not member.here]
    if steps or not away:
        return steps
    fitting = " with ".join(["clients", *([", ".join(f"{k}={v}" for k, v in p.require.items())] if p.require else [])])
    return [
        Requeue(
            f"{', '.join(away)} went away before training began, and nobody who fits is free: the run begins when "
            f"{p.terms.minimum} {fitting} are there"
        )
    ]


def late_at(p: Picture) -> float | None:
    """Return when the next client is late with preparing, None if none will be."""
    if p.terms.deadline is None or p.known:
        return None
    times = [job.since + p.terms.deadline for job in p.of("prepare") if job.state in ("waiting", "leased")]
    return min((time for time in times if time > p.now), default=None)


def _missed(p: Picture, member: Member) -> str | None:
    """Return why a client loses its place, None if it does not."""
    if not member.here:
        return f"{member.name} is away"
    job = next((job for job in p.of("prepare") if job.number == member.number), None)
    if job is None or job.state not in ("waiting", "leased") or p.terms.deadline is None:
        return None
    late = p.now >= job.since + p.terms.deadline
    return f"{member.name} did not prepare before the deadline" if late else None
