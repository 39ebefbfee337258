"""Experiments as text: read with care, and where in the text a mistake stands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from cutlayer import config
from cutlayer.config import Experiment
from cutlayer.errors import CutlayerError
from cutlayer.services.backend import experiments
from cutlayer.services.errors import Unprocessable
from cutlayer.services.protocol import DEPTH, Json

_JSON: TypeAdapter[dict[str, Any]] = TypeAdapter(Json)
_WORD = re.compile(r"[\w.:-]+")


def read(text: str) -> Experiment:
    """Return the experiment that YAML ``text`` describes, if services can run it.

    Raises Unprocessable, which says about it the ``line`` of the mistake (from 1) and its ``key``, None where neither
    can be told.
    """
    places: dict[str, int] = {}
    try:
        _check(text)
        places = lines(text)
        tree = config.read_text(text, "the experiment")
        return experiments.accepted(_JSON.validate_python(tree))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        where = "" if line is None else f" at line {line}"
        raise _wrong(f"the experiment is not YAML{where}: {getattr(error, 'problem', None) or error}", line) from None
    except ValidationError as error:
        said = error.errors(include_url=False, include_input=False)[0]["msg"].removeprefix("Value error, ")
        raise _wrong(f"the experiment {said}") from None
    except CutlayerError as error:
        if isinstance(error, Unprocessable) and error.about:
            raise
        key = mistaken(str(error), places, values(text) if places else {})
        raise _wrong(str(error), places.get(key or ""), key) from None


def lines(text: str) -> dict[str, int]:
    """Return the line of every key, by its dotted path.  Raises yaml.YAMLError."""
    return {path: key.start_mark.line + 1 for path, key, _ in _walk(yaml.compose(text, config.Loader), "")}


def values(text: str) -> dict[str, str]:
    """Return the paths of all values that are single words, by value.  Raises yaml.YAMLError."""
    found = _walk(yaml.compose(text, config.Loader), "")
    return {value.value: path for path, _, value in found if isinstance(value, yaml.ScalarNode)}


def mistaken(sentence: str, places: Mapping[str, int], values: Mapping[str, str]) -> str | None:
    """Return the key of the text that a sentence is about, None where it names none.

    That is the path it begins with (or the nearest that stands in the text), else the first key or value quoted, else
    the first key it mentions.
    """
    words: list[str] = [word.rstrip(".:") for word in _WORD.findall(sentence)]
    path = words[0].split(".") if words else []
    nearest = [".".join(path[:length]) for length in range(len(path), 0, -1)]
    if len(path) > 2:  # what stands beside the roles is every role's
        nearest.insert(1, f"{path[0]}.{path[-1]}")
    for known in nearest:
        if known in places:
            return known
    quotes: list[str] = re.findall(r"'([^']+)'", sentence)
    for quoted in quotes:
        for known in (quoted, values.get(quoted, "")):
            if known in places:
                return known
    return next((word for word in words if word in places), None)


def _check(text: str) -> None:
    """Refuse what grows without end while it is read.  Raises yaml.YAMLError and Unprocessable."""
    depth = 0
    for event in yaml.parse(text, config.Loader):
        line = None if event.start_mark is None else event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise _wrong("the experiment must not refer to other places of itself (*): write it out", line)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH:
                raise _wrong(f"the experiment must not be nested deeper than {DEPTH} levels", line)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _walk(node: yaml.Node | None, above: str) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """Yield every key with its path and value."""
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            yield from _walk(each, above)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = f"{above}.{key.value}" if above else str(key.value)
            yield path, key, value
            yield from _walk(value, path)


def _wrong(sentence: str, line: int | None = None, key: str | None = None) -> Unprocessable:
    error = Unprocessable(sentence, code="bad_experiment")
    error.about = {"line": line, "key": key}
    return error
