"""Reading a run folder.

A run folder holds `config.yaml`, `metrics.jsonl` (one line per round) and, as far as the run came, `summary.json`,
`partition.json` and `model.json`.  A folder with several seeds holds one run folder per seed, `seed-0/`, `seed-1/`, ...

Everything but the first two files may be missing, and an unfinished run is read as far as it came.  A value that is
missing, null, NaN or infinite is `None`: a reader never has to tell these apart.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cutlayer.errors import RunFolderError


@dataclass(frozen=True)
class Round:
    """One line of `metrics.jsonl`: bytes and seconds are those of this round alone, accuracies are in 0..1."""

    number: int
    loss: float | None = None
    test_loss: float | None = None
    test_accuracy: float | None = None
    client_accuracy: Mapping[str, float] = field(default_factory=dict)
    client_loss: Mapping[str, float] = field(default_factory=dict)
    client_samples: Mapping[str, float] = field(default_factory=dict)
    bytes_up: float = 0.0
    bytes_down: float = 0.0
    bytes: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    time: Mapping[str, float] = field(default_factory=dict)
    samples: float = 0.0


@dataclass(frozen=True)
class ClientShare:
    """What one client holds: training samples per class, and the size of its own test split if known."""

    name: str
    counts: tuple[int, ...]
    test: int | None = None


@dataclass(frozen=True)
class Partition:
    """Who holds which labels: `clients[i].counts[c]` training samples of `classes[c]`."""

    scheme: str
    classes: tuple[str, ...]
    clients: tuple[ClientShare, ...]


@dataclass(frozen=True)
class Run:
    """One run, as far as it came.

    `rounds` are in order of their numbers; round 0, where present, is the evaluation before training.  `finished` says
    whether the run wrote its summary.
    """

    path: Path
    config: Mapping[str, Any]
    rounds: tuple[Round, ...]
    summary: Mapping[str, Any]
    partition: Partition | None
    model: Mapping[str, Any] | None

    @property
    def finished(self) -> bool:
        return bool(self.summary)

    @property
    def runs(self) -> tuple["Run", ...]:
        """The run itself: lets one run and a group of seeds be read alike."""
        return (self,)

    @property
    def trained_rounds(self) -> tuple[Round, ...]:
        """The rounds without the evaluation before training."""
        return tuple(line for line in self.rounds if line.number > 0)

    @property
    def evaluated_rounds(self) -> tuple[Round, ...]:
        """The rounds that have a global test accuracy."""
        return tuple(line for line in self.rounds if line.test_accuracy is not None)

    @property
    def final_accuracy(self) -> float | None:
        """Global test accuracy of the last evaluated round, or the summary's if no round was evaluated."""
        if self.evaluated_rounds:
            return self.evaluated_rounds[-1].test_accuracy
        return number(self.summary.get("test_accuracy"))

    @property
    def best_round(self) -> Round | None:
        """The earliest round with the highest global test accuracy."""
        return max(self.evaluated_rounds, key=lambda line: (line.test_accuracy, -line.number), default=None)

    @property
    def last_client_round(self) -> Round | None:
        """The last round in which clients were evaluated on their own test splits."""
        return next((line for line in reversed(self.rounds) if line.client_accuracy), None)

    @property
    def bytes_up(self) -> float:
        return sum(line.bytes_up for line in self.rounds)

    @property
    def bytes_down(self) -> float:
        return sum(line.bytes_down for line in self.rounds)

    @property
    def seconds(self) -> float:
        return sum(line.seconds for line in self.rounds)


@dataclass(frozen=True)
class RunGroup:
    """The same experiment with several seeds.  Values are means over the seeds, with their standard deviation."""

    path: Path
    config: Mapping[str, Any]
    runs: tuple[Run, ...]
    summary: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        return all(run.finished for run in self.runs) and len(self.runs) >= planned(self.config, "seeds", 0)

    @property
    def partition(self) -> Partition | None:
        """The partition of the first seed."""
        return self.runs[0].partition

    @property
    def model(self) -> Mapping[str, Any] | None:
        return self.runs[0].model


AnyRun = Run | RunGroup


def load_run(path: str | Path) -> AnyRun:
    """The run, or the group of seeds, in the folder `path`.

    Raises RunFolderError if there is no such folder, if it holds no run, or if a file in it cannot be read.
    """
    folder = Path(path)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise RunFolderError(f"expected a run folder, but {folder} {what}; give the folder that `cutlayer run` wrote")
    seeds = sorted((int(match[1]), child) for child in folder.iterdir() if (match := _seed_folder(child)))
    if seeds and not (folder / "metrics.jsonl").exists():
        runs = tuple(_load_one(child) for _, child in seeds)
        config = _read_config(folder / "config.yaml") or runs[0].config
        return RunGroup(folder, config, runs, _read_json(folder / "summary.json"))
    return _load_one(folder)


def number(value: object) -> float | None:
    """`value` as a finite float, or None for everything that is not one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def planned(config: Mapping[str, Any], key: str, default: int) -> int:
    """A whole number from a resolved configuration, or `default` if it has none."""
    value = config.get(key)
    if isinstance(value, Mapping):
        value = value.get("number", value.get("count"))
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1; 0 for a single value)."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, 0.0
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _seed_folder(child: Path) -> re.Match[str] | None:
    match = re.fullmatch(r"seed-(\d+)", child.name)
    return match if match and _holds_run(child) else None


def _holds_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() or (folder / "metrics.jsonl").is_file()


def _load_one(folder: Path) -> Run:
    if not _holds_run(folder):
        what = "it is empty" if not any(folder.iterdir()) else "it has neither config.yaml nor metrics.jsonl"
        raise RunFolderError(f"expected a run folder, but {folder} is none ({what}); give the folder of `cutlayer run`")
    partition = _read_json(folder / "partition.json")
    return Run(
        path=folder,
        config=_read_config(folder / "config.yaml"),
        rounds=_read_rounds(folder / "metrics.jsonl"),
        summary=_read_json(folder / "summary.json"),
        partition=_partition(partition) if partition else None,
        model=_read_json(folder / "model.json") or None,
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(f"cannot read {path}: {error}; restore the file or repeat the run") from error


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        config = yaml.safe_load(_read_text(path))
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise RunFolderError(f"{path} is not YAML ({problem}); restore it or repeat the run") from error
    if config is not None and not isinstance(config, dict):
        raise RunFolderError(f"expected a mapping in {path}, but it is a {type(config).__name__}; restore the file")
    return config or {}


def _read_json(path: Path) -> Mapping[str, Any]:
    text = _read_text(path)
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise RunFolderError(f"{path} is not JSON ({error}); restore it, or delete it to go without") from error
    if not isinstance(value, dict):
        raise RunFolderError(f"expected an object in {path}, but it is a {type(value).__name__}; restore the file")
    return value


def _read_rounds(path: Path) -> tuple[Round, ...]:
    """The rounds in order.  A last line that is torn is left out; of a repeated round the last line counts."""
    lines = [(n, line) for n, line in enumerate(_read_text_lossy(path).splitlines(), 1) if line.strip()]
    rounds: dict[int, Round] = {}
    for index, (n, line) in enumerate(lines):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not isinstance(record.get("round"), int):
                raise ValueError("it is no object with a round number")
        except ValueError as error:
            if index == len(lines) - 1:
                break
            raise RunFolderError(
                f"line {n} of {path} is not a round ({error}); restore it or repeat the run"
            ) from error
        rounds[record["round"]] = _round(record)
    return tuple(rounds[key] for key in sorted(rounds))


def _read_text_lossy(path: Path) -> str:
    """A torn last line may end inside a character."""
    try:
        return path.read_bytes().decode("utf-8", errors="replace") if path.exists() else ""
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error}; restore the file or repeat the run") from error


def _round(record: Mapping[str, Any]) -> Round:
    return Round(
        number=record["round"],
        loss=number(record.get("loss")),
        test_loss=number(record.get("test_loss")),
        test_accuracy=number(record.get("test_accuracy")),
        client_accuracy=_numbers(record.get("client_accuracy")),
        client_loss=_numbers(record.get("client_loss")),
        client_samples=_numbers(record.get("client_samples")),
        bytes_up=number(record.get("bytes_up")) or 0.0,
        bytes_down=number(record.get("bytes_down")) or 0.0,
        bytes=_numbers(record.get("bytes")),
        seconds=number(record.get("seconds")) or 0.0,
        time=_numbers(record.get("time")),
        samples=number(record.get("samples")) or 0.0,
    )


def _numbers(value: object) -> dict[str, float]:
    if not isinstance(value, dict):
        return {}
    return {str(key): found for key, each in value.items() if (found := number(each)) is not None}


def _partition(record: Mapping[str, Any]) -> Partition | None:
    clients = record.get("clients")
    if not isinstance(clients, list) or not clients:
        return None
    shares = tuple(
        ClientShare(
            name=str(client.get("name", index)),
            counts=tuple(int(number(count) or 0) for count in client.get("counts") or ()),
            test=None if (test := number(client.get("test"))) is None else int(test),
        )
        for index, client in enumerate(clients)
    )
    width = max(len(share.counts) for share in shares)
    names = [str(name) for name in record.get("classes") or ()]
    names = (names + [str(index) for index in range(len(names), width)])[: max(width, 1)]
    padded = tuple(ClientShare(s.name, s.counts + (0,) * (len(names) - len(s.counts)), s.test) for s in shares)
    return Partition(str(record.get("scheme", "")), tuple(names), padded)
