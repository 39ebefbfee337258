"""A ticket is good for what it says, until it says, from who has the secret; anything else is refused."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import ConfigError
from cutlayer.services.errors import Unauthorized
from cutlayer.services.tickets import ALGORITHM, AUDIENCE, ISSUER, Ticket, issue, verify

SECRET = "s" * 48
TICKET = Ticket("exp-00c0ffee", 3, 1, "6f1c", "train", "hospital-a")


def claims(**changes: Any) -> dict[str, Any]:
    found = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "exp": int(time.time()) + 60,
        "sub": "a",
        "run": "r",
        "round": 1,
        "client": 0,
        "task": "t",
        "kind": "train",
    }
    found.update(changes)
    return {name: value for name, value in found.items() if value is not None}


def signed(secret: str = SECRET, algorithm: str = ALGORITHM, **changes: Any) -> str:
    return jwt.encode(claims(**changes), secret, algorithm=algorithm)


@given(
    run=st.text(max_size=30),
    number=st.integers(0, 10**6),
    client=st.integers(0, 10**4),
    task=st.text(max_size=40),
    kind=st.text(max_size=10),
    subject=st.text(max_size=40),
    giver=st.none() | st.integers(0, 10**4),
)
def test_what_was_issued_is_what_is_verified(
    run: str, number: int, client: int, task: str, kind: str, subject: str, giver: int | None
) -> None:
    ticket = Ticket(run, number, client, task, kind, subject, giver=giver)
    found = verify(SECRET.encode(), issue(SECRET, ticket, 60))
    assert (found.run, found.round, found.client, found.task, found.kind, found.subject) == (
        run,
        number,
        client,
        task,
        kind,
        subject,
    )
    assert found.giver == giver
    assert found.expires > time.time()


def test_a_ticket_ends() -> None:
    with pytest.raises(Unauthorized, match="expired"):
        verify(SECRET, issue(SECRET, TICKET, -1))


def test_another_secret_is_not_this_one() -> None:
    with pytest.raises(Unauthorized, match="same secret"):
        verify("t" * 48, issue(SECRET, TICKET, 60))


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_only_one_algorithm_is_accepted(algorithm: str) -> None:
    token = jwt.encode(claims(), "s" * 64, algorithm=algorithm)
    with pytest.raises(Unauthorized):
        verify("s" * 64, token)


def test_an_unsigned_ticket_is_none() -> None:
    with pytest.raises(Unauthorized):
        verify(SECRET, jwt.encode(claims(), None, algorithm="none"))  # type: ignore[arg-type]
    header, body, _ = issue(SECRET, TICKET, 60).split(".")
    with pytest.raises(Unauthorized):
        verify(SECRET, f"{header}.{body}.")
    none = base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "JWT"}).encode()).decode().rstrip("=")
    with pytest.raises(Unauthorized):
        verify(SECRET, f"{none}.{body}.")


@pytest.mark.parametrize("name", ["exp", "iss", "aud", "sub", "run", "round", "client", "task", "kind"])
def test_every_claim_is_required(name: str) -> None:
    assert verify(SECRET, signed()).run == "r"
    with pytest.raises(Unauthorized):
        verify(SECRET, signed(**{name: None}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "someone"},
        {"aud": "elsewhere"},
        {"round": "1"},
        {"round": True},
        {"round": -1},
        {"client": 1.5},
        {"run": 7},
        {"task": ["t"]},
        {"kind": {}},
        {"giver": "0"},
        {"giver": -1},
    ],
    ids=str,
)
def test_claims_are_what_they_should_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(Unauthorized):
        verify(SECRET, signed(**wrong))


@given(token=st.text(max_size=300) | st.binary(max_size=300).map(lambda b: b.decode("latin-1")))
def test_anything_is_a_ticket_or_unauthorized(token: str) -> None:
    with pytest.raises(Unauthorized):
        verify(SECRET, token)


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_no_bit_of_the_claims_can_be_changed(at: int, bit: int) -> None:
    token = issue(SECRET, TICKET, 60)
    signed_part = token.rpartition(".")[0]
    at %= len(signed_part)
    changed = token[:at] + chr(ord(token[at]) ^ (1 << bit)) + token[at + 1 :]
    with pytest.raises(Unauthorized):
        verify(SECRET, changed)


def test_a_ticket_that_is_far_too_long_is_not_even_decoded() -> None:
    with pytest.raises(Unauthorized, match="too long"):
        verify(SECRET, signed(run="r" * 10_000))


def test_a_secret_that_could_be_guessed_is_refused() -> None:
    with pytest.raises(ConfigError, match="32 bytes"):
        issue("short", TICKET, 60)
    with pytest.raises(ConfigError, match="32 bytes"):
        verify(b"short", issue(SECRET, TICKET, 60))
