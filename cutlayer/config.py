"""The experiment file: its keys, their defaults, and ``key=value`` overrides.

Every key takes a name or a mapping with ``name`` and options; an experiment without any key is the embedded demo.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from cutlayer.errors import ConfigError

Spec = dict[str, Any]
"""A ``name`` and its options."""

ROLES = ("client", "server", "auxiliary")
MESSAGES = ("activations", "output_gradients", "cut_gradients", "updates")
"""What a codec may be chosen for; a codec named beside them is for all others."""


class Loader(yaml.SafeLoader):
    """YAML in which ``1e-3`` is a number, as in YAML 1.2; YAML 1.1 takes it for text."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


class _Keys(BaseModel):
    """Keys that are all known and do not change.  Pydantic would take true for 1 wherever a number is expected."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("expected a number, a name or a mapping")
        return value


class Clients(_Keys):
    """How many clients, which share of them takes part in a round, and which share of its data a client tests on.

    ``pace`` is how fast clients are where the order of arrival is simulated: each one's seconds a sample, or the spread
    σ of a log-normal distribution.  The others are for services: with how many a run may begin (``count`` if None),
    after how many seconds a round goes on without those that are late (never if None), which share of a round's clients
    must finish it, the labels that a client must have, and whether clients that come later may ``join`` a run that has
    begun with fewer than ``count``.
    """

    count: int = Field(5, ge=1)
    fraction: float = Field(1.0, gt=0, le=1)
    test_fraction: float = Field(0.1, ge=0, lt=1)
    pace: Annotated[float, Field(ge=0, le=10)] | tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = 0.5
    minimum: int | None = Field(None, ge=1)
    deadline: float | None = Field(None, gt=0, allow_inf_nan=False)
    quorum: float = Field(1.0, gt=0, le=1)
    require: dict[str, str] = {}
    join: bool = False

    @model_validator(mode="after")
    def _minimum_of_count(self) -> Clients:
        if self.minimum is not None and self.minimum > self.count:
            raise ValueError(f"minimum must be at most count, which is {self.count}")
        return self

    @model_validator(mode="after")
    def _pace_of_each(self) -> Clients:
        if isinstance(self.pace, tuple) and len(self.pace) != self.count:
            raise ValueError(f"pace must have one number for each of {self.count} clients, or be a single one")
        return self


class Optimizers(_Keys):
    """A ``torch.optim`` name, its arguments and a ``schedule``, for each role."""

    client: Spec
    server: Spec
    auxiliary: Spec


class Update(_Keys):
    """When a window closes: after ``every`` batches or samples, as many batches as clients ("clients"), or a round."""

    every: int | Literal["clients", "round"] = "clients"
    unit: Literal["batches", "samples"] = "batches"

    @field_validator("every")
    @classmethod
    def _positive(cls, every: int | str) -> int | str:
        if isinstance(every, int) and every < 1:
            raise ValueError("must be at least 1, or 'clients' or 'round'")
        return every


class Evaluate(_Keys):
    """Every how many rounds the model is evaluated (the last round always is), and in which batches."""

    every: int = Field(1, ge=1)
    batch_size: int = Field(512, ge=1)


class Experiment(_Keys):
    """One experiment, complete and valid in itself (names are looked up when it is prepared)."""

    algorithm: Spec = {"name": "file_sync"}
    model: Spec = {"name": "mlp"}
    cuts: tuple[str, ...] | None = None
    data: Spec = {"name": "digits"}
    partition: Spec = {"name": "dirichlet", "alpha": 0.5}
    clients: Clients = Clients()
    rounds: int = Field(20, ge=1)
    local_epochs: int = Field(1, ge=1)
    batch_size: int = Field(16, ge=1)
    optimizer: Optimizers = Field(default_factory=lambda: _optimizers({}), validate_default=True)
    codec: Spec = {"name": "fp32"}
    update: Update = Update()
    aggregator: Spec = {"name": "fedavg"}
    auxiliary: Spec = {"name": "linear"}
    augment: Spec | None = None
    loss: str = "cross_entropy"
    clip: float | None = Field(None, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    store: str | None = None
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")
    evaluate: Evaluate = Evaluate()
    checkpoint: int = Field(1, ge=0)
    seed: int = Field(0, ge=0)
    seeds: int = Field(1, ge=1)
    deterministic: bool = True
    engine: Spec = {"name": "local"}
    device: str = "auto"
    threads: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    out: str | None = None

    @field_validator("algorithm", "model", "data", "partition", "aggregator", "auxiliary", "engine", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise ValueError("expected a name, or a mapping with a name and options")
        return value

    @field_validator("codec", mode="before")
    @classmethod
    def _codec(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return {"name": value} if isinstance(value, str) else value
        shared = {k: v for k, v in value.items() if k not in MESSAGES}
        if "name" not in shared or shared == value:
            return value
        chosen = {kind: value[kind] for kind in MESSAGES if kind in value}
        return chosen if shared == {"name": "fp32"} else {kind: chosen.get(kind, shared) for kind in MESSAGES}

    @field_validator("cuts", mode="before")
    @classmethod
    def _cuts(cls, value: Any) -> Any:
        cuts = [c.strip() for c in value.split(",")] if isinstance(value, str) else value
        cuts = [cuts] if type(cuts) is int else cuts
        if not isinstance(cuts, list | tuple | None):
            raise ValueError("expected the name of a submodule, or a list of one or two")
        if cuts is not None and len(cuts) not in (1, 2):
            raise ValueError(f"expected one cut, or two for the U-shape, got {len(cuts)}")
        return cuts and [str(c) if type(c) is int else c for c in cuts]  # the layers of a Sequential are "0", "1", ...

    @field_validator("clients", mode="before")
    @classmethod
    def _clients(cls, value: Any) -> Any:
        return {"count": value} if isinstance(value, int | str) else value

    @field_validator("update", mode="before")
    @classmethod
    def _update(cls, value: Any) -> Any:
        return {"every": value} if isinstance(value, int | str) else value

    @field_validator("evaluate", mode="before")
    @classmethod
    def _evaluate(cls, value: Any) -> Any:
        return {"every": value} if isinstance(value, int | str) else value

    @field_validator("optimizer", mode="before")
    @classmethod
    def _optimizer(cls, value: Any) -> Any:
        if isinstance(value, Optimizers):
            return value
        return _optimizers({"name": value} if isinstance(value, str) else value)

    @field_validator("augment", mode="before")
    @classmethod
    def _augment(cls, value: Any) -> Any:
        return value or None

    @model_validator(mode="after")
    def _engine(self) -> Experiment:
        if self.engine["name"] != "local":
            raise ValueError(f"engine must be local, got {self.engine['name']!r}")
        odd = sorted(self.engine.keys() - {"name", "encoded"})
        if odd:
            raise ValueError(f"engine local has no option {odd[0]!r}; it has: encoded")
        return self

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as they stand in a run folder's ``config.yaml``."""
        return self.model_dump(mode="json")


def _optimizers(value: Any) -> dict[str, Any]:
    """Fill each role's optimizer from what stands beside the roles: ``{name: sgd, lr: 0.1, server: {lr: 0.01}}``."""
    if not isinstance(value, Mapping):
        raise ValueError("expected the name of a torch.optim optimizer, or a mapping")
    shared = {k: v for k, v in value.items() if k not in ROLES}
    found = {}
    for role in ROLES:
        own = value.get(role) or {}
        if not isinstance(own, str | Mapping):
            raise ValueError(f"expected the name of a torch.optim optimizer for the {role}, or a mapping")
        own = {"name": own} if isinstance(own, str) else dict(own)
        if "name" in own and own["name"] != shared.get("name", "adam"):
            base: dict[str, Any] = {}
        else:
            base = dict(shared) or {"name": "adam", "lr": 1e-3}
        base.setdefault("name", "adam")
        found[role] = base | own
    return found


def load(path: Path | str | None = None, overrides: Iterable[str] = (), **keys: Any) -> Experiment:
    """Return the experiment in YAML file ``path`` with ``key=value`` ``overrides`` and ``keys`` on top.

    Raises ConfigError for a missing or malformed file, an unknown key or a value of the wrong type.
    """
    tree = _read(Path(path)) if path is not None else {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"expected key=value on the command line, got {override!r}")
        try:
            value = yaml.load(text, Loader) if text else None
        except yaml.YAMLError:
            raise ConfigError(f"the value of {key} must be YAML, got {text!r}; put quotes around it") from None
        _put(tree, key.split("."), value, key)
    for key, value in keys.items():
        _put(tree, [key], value, key)
    return parse(tree)


def parse(tree: Mapping[str, Any]) -> Experiment:
    """Return the experiment that ``tree`` describes.  Raises ConfigError, with the key and what to do."""
    for key in tree:
        if key not in Experiment.model_fields:
            close = get_close_matches(str(key), Experiment.model_fields, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(Experiment.model_fields)}"
            raise ConfigError(f"an experiment has no key {key!r}; {hint}")
    try:
        return Experiment.model_validate(dict(tree))
    except ValidationError as error:
        raise ConfigError(_sentence(error)) from None


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(p) for p in first["loc"] if not (isinstance(p, str) and ("[" in p or p in ("int", "str"))))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = _known(first["loc"])
        return f"{where} is not a key{f'; there are: {known}' if known else ''}"
    got = first["input"]
    text = repr(got) if len(repr(got)) < 80 else type(got).__name__
    return f"{where}: {message[0].lower()}{message[1:]}, got {text}" if where else message


def _known(location: tuple[int | str, ...]) -> str:
    models: dict[str, type[BaseModel]] = {
        "clients": Clients,
        "optimizer": Optimizers,
        "update": Update,
        "evaluate": Evaluate,
    }
    model = models.get(str(location[0]))
    return ", ".join(model.model_fields) if model is not None else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"expected an experiment file, and {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"expected an experiment file, and {path} cannot be read: {error}") from None
    return read_text(text, str(path))


def read_text(text: str, place: str) -> dict[str, Any]:
    """Return the keys and values that stand in YAML ``text``, which is that of ``place``.  Raises ConfigError."""
    try:
        tree = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise ConfigError(f"{place} is not YAML{where}: {reason}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"expected keys and values in {place}, got a {type(tree).__name__}")
    return tree


NAMED = ("algorithm", "model", "data", "partition", "optimizer", "codec", "aggregator", "auxiliary", "engine")
COUNTED = {"clients": "count", "update": "every", "evaluate": "every"}


def _put(tree: dict[str, Any], path: list[str], value: Any, key: str) -> None:
    """Set ``tree[path]``; a name on the way becomes a mapping with it, a new name drops the old options."""
    for depth, step in enumerate(path[:-1]):
        inner = tree.get(step)
        if inner is None:
            inner = _default(path[: depth + 1]) if depth == 0 else {}
        elif not isinstance(inner, dict):
            inner = {COUNTED.get(step, "name"): inner}
        tree[step] = inner = dict(inner)
        tree = inner
    if path[-1] == "name" and len(path) > 1 and tree.get("name") != value:
        tree.clear()
    tree[path[-1]] = value


def _default(path: list[str]) -> dict[str, Any]:
    field = Experiment.model_fields.get(path[0])
    default = field.default if field is not None else None
    return dict(default) if isinstance(default, dict) else {}
