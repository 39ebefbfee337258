"""What a task brings, by kind."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cutlayer.services.protocol.forms import Count, Flag, Json, Number, Request, Seconds, Sentence, Text
from cutlayer.services.protocol.runs import InputSpec
from cutlayer.services.protocol.words import TaskKind


class PrepareResult(Request):
    """A client's data: how many samples of which kind."""

    samples: Count
    test_samples: Count = 0
    classes: Count
    class_names: Annotated[tuple[Text, ...], Field(max_length=100_000)] | None = None
    inputs: Annotated[tuple[InputSpec, ...], Field(min_length=1, max_length=64)]
    own: Flag = False
    """The client's operator gave the data; else it is a share of what the experiment names."""
    counts: Annotated[tuple[Count, ...], Field(max_length=100_000)] | None = None
    """Training samples of each class; not told where labels are to stay at the client."""


class TrainResult(Request):
    """A client's round: sums and bytes.  ``loss_sum`` is None where no loss was computed."""

    samples: Count
    batches: Count
    loss_sum: Number | None = None
    bytes_up: Count = 0
    bytes_down: Count = 0
    bytes: Annotated[dict[Text, Count], Field(max_length=100)] = {}
    seconds: Seconds = 0.0
    seconds_by: Annotated[dict[Text, Seconds], Field(max_length=100)] = {}
    """Of those seconds, how many were spent waiting for ``server`` and ``federated``."""


Confusion = Annotated[list[Annotated[list[Count], Field(max_length=1000)]], Field(max_length=1000)]
"""Counts, true class × predicted class."""


class EvaluateResult(Request):
    """Sums over a client's own test split."""

    count: Count
    correct: Count
    loss: Number | None = 0.0
    confusion: Confusion | None = None
    seconds: Seconds = 0.0
    bytes_up: Count = 0
    bytes_down: Count = 0
    bytes: Annotated[dict[Text, Count], Field(max_length=100)] = {}

    @model_validator(mode="after")
    def _no_more_correct_than_counted(self) -> EvaluateResult:
        if self.correct > self.count:
            raise ValueError(f"correct must be at most count, {self.count}, got {self.correct}")
        return self


class WorkerResult(BaseModel):
    """What a split or federated server reports: known fields, and whatever else it wants to keep."""

    model_config = ConfigDict(extra="allow", frozen=True)

    seconds: Seconds = 0.0
    bytes_up: Count = 0
    bytes_down: Count = 0
    bytes: Annotated[dict[Text, Count], Field(max_length=100)] = {}


class ScoreResult(WorkerResult):
    """Sums over the global test set, or ``available`` false where there is none.

    ``accuracy`` stands for correct / count where clients keep parts of their own (a mean weighted by samples).
    """

    available: Flag = True
    count: Count = 0
    correct: Count = 0
    loss: Number | None = 0.0
    accuracy: Annotated[float, Field(ge=0, le=1, strict=True)] | None = None
    confusion: Confusion | None = None


class ConcludeResult(WorkerResult):
    """The run's artifacts by name, and what belongs into its summary."""

    artifacts: Json = {}
    parameters: Json = {}
    versions: Json = {}
    device: Text | None = None
    threads: Count | None = None
    data_note: Sentence | None = None


RESULTS: dict[TaskKind, type[BaseModel]] = {
    "prepare": PrepareResult,
    "setup": WorkerResult,
    "train": TrainResult,
    "end": WorkerResult,
    "finish": WorkerResult,
    "aggregate": WorkerResult,
    "evaluate": EvaluateResult,
    "score": ScoreResult,
    "conclude": ConcludeResult,
}
