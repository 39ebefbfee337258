"""Logs: one line per event, as JSON or for people, with the ids of what it was about, and never with a secret.

    log = logging.getLogger(__name__)
    with logs.about(run="exp-1a2b3c4d", round=3, client=1):
        log.info("forward stored", extra={"forward": uuid, "bytes": 4096})

`about` gives every line inside (and in tasks that are started inside) its ids; ``extra`` gives one line its own
fields.  Everything that looks like a token, a ticket, a password in a URL or an Authorization header is taken out of
the finished line, tracebacks included, and so is every text in a field that is called like one.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TextIO

Fields = MappingProxyType[str, Any]

_about: ContextVar[Fields] = ContextVar("about", default=MappingProxyType({}))
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message", "taskName"}
_SECRET_NAMES = re.compile(r"(?i)authorization|password|secret|ticket|cookie|token$|_key$|^key$")
# Each of these is linear in the length of the text, whatever the text is.
_SECRETS = (
    (re.compile(r"(?i)(cl_[a-z]{2,8}_)[A-Za-z0-9_~+/=-]{6,}"), r"\1…"),
    (re.compile(r"eyJ[A-Za-z0-9_-]{4,300}\.[A-Za-z0-9_-]+\.?[A-Za-z0-9_-]*"), "…"),
    (re.compile(r"(?i)\b((?:bearer|basic)[\s:]+)(?!token\b|auth)[^\s'\"\\,;}\]]{6,}"), r"\1…"),
    (
        re.compile(
            r"(?i)((?:proxy-)?authorization[\\'\"]*\s*[:=,]\s*(?:b(?=['\"]))?[\\'\"]*)(?:(?:bearer|basic)\s+)?+(?!\.\.\.)[^\s'\"\\,;}\])…]+"
        ),
        r"\1…",
    ),
    (re.compile(r"(?i)([a-z][a-z0-9+.-]{0,30}://[^\s/:@'\"]*:)[^\s/@'\"]+@"), r"\1…@"),
    (
        re.compile(
            r"(?i)((?:password|secret_access_key|secret|sas_token)[\\'\"]*\s*[:=]\s*[\\'\"]*)[^\s'\"\\,;}…]{4,}"
        ),
        r"\1…",
    ),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL), "…"),
)


def redact(text: str) -> str:
    """Return ``text`` without what must not be in a log; what was there is shown by …"""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


class about:  # noqa: N801 (read as a word: with about(run=run))
    """Gives every line that is logged inside these fields; those of an outer ``about`` stay, None takes one away."""

    __slots__ = ("_ids", "_token")

    def __init__(self, **ids: Any) -> None:
        self._ids = ids

    def __enter__(self) -> None:
        merged = {**_about.get(), **self._ids}
        self._token = _about.set(MappingProxyType({key: value for key, value in merged.items() if value is not None}))

    def __exit__(self, *_: object) -> None:
        _about.reset(self._token)


def fields() -> Fields:
    """Return the fields that `about` gives here."""
    return _about.get()


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, logger, message, ids, fields, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
            **_fields_of(record),
        }
        if record.exc_info:
            line["traceback"] = redact(self.formatException(record.exc_info))
        if record.stack_info:
            line["stack"] = redact(record.stack_info)
        return json.dumps(line, ensure_ascii=False)


class Console(logging.Formatter):
    """For people: time, level, message, then ``key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        said = "".join(f"  {key}={value}" for key, value in _fields_of(record).items())
        text = f"{when} {record.levelname.lower():<7} {_one_line(record.getMessage() + said)}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if record.stack_info:
            text += "\n" + record.stack_info
        return redact(text)


def configure(level: str = "info", form: str = "console", stream: TextIO | None = None) -> None:
    """Send every log of this process to ``stream`` (standard error), as ``console`` or ``json`` lines.

    Libraries' loggers are quieter by one step, so that ``debug`` is about cutlayer.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else Console())
    root = logging.getLogger()
    for old in list(root.handlers):
        if getattr(old, "cutlayer", False):
            root.removeHandler(old)
    handler.cutlayer = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    root.setLevel(logging.WARNING if level != "error" else logging.ERROR)
    logging.getLogger("cutlayer").setLevel(level.upper())
    logging.captureWarnings(True)


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    own = {key: value for key, value in record.__dict__.items() if key not in _STANDARD and not key.startswith("_")}
    return {key: _clean(key, value) for key, value in {**_about.get(), **own}.items()}


def _clean(key: str, value: Any) -> Any:
    """Return the value as JSON can say it, without secrets."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(name): _clean(str(name), each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(key, each) for each in value]
    return "…" if _SECRET_NAMES.search(key) else redact(str(value))


def _one_line(text: str) -> str:
    """Return the text with its control characters written out, so that what a client sends cannot forge a line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
