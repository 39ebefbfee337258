"""A log line has the ids of what it is about, and no secret ever."""

from __future__ import annotations

import base64
import io
import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.services import logs, tickets

TICKET = tickets.issue("s" * 48, tickets.Ticket("run", 1, 0, "t", "train", "a"), 60)
ROLES = ("op", "view", "svc", "enrol", "key")
RANDOM = [base64.urlsafe_b64encode(bytes(range(7 * n, 7 * n + 32))).decode() for n in range(len(ROLES))]
TOKENS = [f"cl_{role}_{random}" for role, random in zip(ROLES, RANDOM, strict=True)]


def line(message: str, *arguments: Any, form: type[logging.Formatter] = logs.JsonLines, **extra: Any) -> str:
    record = logging.makeLogRecord({"name": "cutlayer.x", "levelname": "INFO", "msg": message, "args": arguments})
    record.__dict__.update(extra)
    return form().format(record)


@pytest.mark.parametrize("form", [logs.JsonLines, logs.Console])
@pytest.mark.parametrize("secret", [*TOKENS, TICKET], ids=[*ROLES, "ticket"])
@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "token={}",
        "Authorization: Bearer {}",
        "{{'authorization': 'Bearer {}'}}",
        '{{"token": "{}"}}',
        "GET /v1/runs?token={}&x=1",
        "[('authorization', b'Bearer {}')]",
        "https://user:{}@backend/v1",
        "a{}",
        "\n{}\n",
    ],
)
def test_tokens_and_tickets_never_reach_a_line(form: type[logging.Formatter], secret: str, text: str) -> None:
    said = text.format(secret)
    for shown in (
        line(said.replace("%", "%%"), form=form),
        line("got %s", said, form=form),
        line("got %r", {"headers": [said]}, form=form),
        line("got", form=form, extra=said),
        line("got", form=form, headers={"authorization": f"Bearer {secret}", "x": [said]}),
        line("got", form=form, ticket=secret, token=secret),
    ):
        assert secret not in shown
        assert secret[-12:] not in shown


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNz"),
        ("Proxy-Authorization: something-else-here", "something-else"),
        ("postgresql+asyncpg://cutlayer:hunter2@db/x", "hunter2"),
        ("password='hunter22'", "hunter22"),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG", "wJalrXUtnFEMI"),
        ("-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMG\n-----END PRIVATE KEY-----", "MIGHAgEAMBMG"),
    ],
)
def test_other_secrets_do_not_either(text: str, secret: str) -> None:
    assert secret not in line("%s", text)
    assert secret not in line("%s", text, form=logs.Console)


@pytest.mark.parametrize(
    "text",
    [
        "the ticket has expired: ask the backend for the task again",
        "expected a token as 'Authorization: Bearer ...'",
        "loaded https://backend:7400/v1/runs/exp-1a2b3c4d",
        "runs/exp/forwards/0f8fad5b-d9cb-469f-a165-70867728950e",
    ],
)
def test_ordinary_sentences_stay(text: str) -> None:
    assert json.loads(line("%s", text))["message"] == text


@pytest.mark.parametrize("piece", ["a", "eyJ", "a://", "cl_op_", "authorization", "-----BEGIN ", "bearer ", "password"])
def test_no_text_makes_redaction_slow(piece: str) -> None:
    text = piece * (1 << 16)
    assert logs.redact(text + TOKENS[0]).count(TOKENS[0]) == 0


def test_a_traceback_is_in_the_line_without_secrets() -> None:
    try:
        raise ValueError(f"bad header Bearer {TOKENS[0]}")
    except ValueError as error:
        information = (type(error), error, error.__traceback__)
    for form in (logs.JsonLines, logs.Console):
        shown = line("failed", form=form, exc_info=information)
        assert "ValueError" in shown
        assert TOKENS[0] not in shown
    assert "ValueError" in json.loads(line("failed", exc_info=information))["traceback"]


@given(
    message=st.text(max_size=50),
    values=st.dictionaries(
        st.sampled_from(["run", "round", "note", "token", "password"]),
        st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.lists(st.text(max_size=9), max_size=3),
    ),
)
def test_a_line_is_one_line_and_json(message: str, values: dict[str, Any]) -> None:
    shown = line("%s", message, **values)
    assert "\n" not in shown
    found = json.loads(shown)
    assert {"time", "level", "logger", "message"} <= set(found)
    assert {name: found[name] for name, value in values.items() if isinstance(value, int)} == {
        name: value for name, value in values.items() if isinstance(value, int)
    }
    assert "\n" not in line("%s", message, form=logs.Console)


def test_what_it_is_about_is_on_every_line_inside() -> None:
    with logs.about(run="exp-1", round=3):
        with logs.about(client=1, round=None):
            inside = json.loads(line("x", forward="f-1"))
        outside = json.loads(line("x"))
    assert {"run": "exp-1", "client": 1, "forward": "f-1"}.items() <= inside.items()
    assert "round" not in inside
    assert {"run": "exp-1", "round": 3}.items() <= outside.items()
    assert "run" not in json.loads(line("x"))
    assert dict(logs.fields()) == {}


def test_a_field_of_the_line_wins_over_what_it_is_about() -> None:
    with logs.about(client=1):
        assert json.loads(line("x", client=2))["client"] == 2


@pytest.mark.usefixtures("logging_restored")
def test_configuring_twice_gives_one_line_each() -> None:
    logs.configure("info", "console", io.StringIO())
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    log = logging.getLogger("cutlayer.services.x")
    log.info("hello %s", "there", extra={"run": "r"})
    log.debug("too quiet")
    logging.getLogger("other").info("not ours")
    logging.getLogger("other").warning("theirs")
    lines = [json.loads(each) for each in stream.getvalue().splitlines()]
    assert [(each["level"], each["message"]) for each in lines] == [("info", "hello there"), ("warning", "theirs")]
    assert lines[0]["run"] == "r"
