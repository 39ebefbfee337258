"""What a task tells whoever does it, by kind."""

from __future__ import annotations

from cutlayer.services.protocol.forms import Reply
from cutlayer.services.protocol.words import TaskKind


class PreparePayload(Reply):
    """prepare (client): load the data, say what it looks like."""

    run: str
    client: int
    clients: int


class SetupPayload(Reply):
    """setup (split, fed): write what the run begins with.  ``samples`` of each client, by number."""

    run: str
    clients: int
    samples: tuple[int, ...]


class TrainPayload(Reply):
    """train (client): one round.  ``giver`` trained before in a relay, None where nobody else has the parts.

    Asynchronous: ``round`` is the client's pass over its samples, begun ``within`` a round.
    """

    run: str
    round: int
    client: int
    turn: int
    giver: int | None = None
    evaluate: bool = False
    within: int | None = None


class EndPayload(Reply):
    """end (split): write the end mark of a client that was dropped."""

    run: str
    round: int
    client: int


class FinishPayload(Reply):
    """finish (split): bring the round's update to its end, with exactly these clients, in the plan's order."""

    run: str
    round: int
    clients: tuple[int, ...]


class AggregatePayload(Reply):
    """aggregate (fed): average the parts of exactly these clients, in the plan's order.  ``holder``: of a relay."""

    run: str
    round: int
    clients: tuple[int, ...]
    samples: tuple[int, ...]
    holder: int | None = None


class EvaluatePayload(Reply):
    """evaluate (client): score the model on its own test split.  ``holder``: who has the parts of a relay."""

    run: str
    round: int
    client: int
    holder: int | None = None


class ScorePayload(Reply):
    """score (split, or fed without a split server): score the model on the global test set, if there is one."""

    run: str
    round: int
    holder: int | None = None


class ConcludePayload(Reply):
    """conclude (split, or fed without a split server): join the model and put it among the artifacts."""

    run: str
    round: int
    holder: int | None = None


PAYLOADS: dict[TaskKind, type[Reply]] = {
    "prepare": PreparePayload,
    "setup": SetupPayload,
    "train": TrainPayload,
    "end": EndPayload,
    "finish": FinishPayload,
    "aggregate": AggregatePayload,
    "evaluate": EvaluatePayload,
    "score": ScorePayload,
    "conclude": ConcludePayload,
}
