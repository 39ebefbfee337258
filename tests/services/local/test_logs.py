"""Logs of services: which, their ends, and what is added while one looks."""

from __future__ import annotations

from pathlib import Path

import pytest

from cutlayer.errors import ConfigError
from cutlayer.services.local import logs
from cutlayer.services.local.deployment import Deployment


@pytest.fixture
def there(tmp_path: Path) -> Deployment:
    (tmp_path / "logs").mkdir()
    for name in ("backend", "fed", "split-1", "split-2"):
        (tmp_path / f"logs/{name}.log").write_text(f"{name} one\n{name} two\n{name} three\n")
    return Deployment(tmp_path)


def test_which(there: Deployment) -> None:
    def names(*wanted: str) -> list[str]:
        return [log.stem for log in logs.files(there, wanted)]

    assert names() == ["backend", "fed", "split-1", "split-2"]
    assert names("split") == ["split-1", "split-2"]
    assert names("split-2", "fed", "split-2") == ["split-2", "fed"]
    with pytest.raises(ConfigError, match=r"no log of 'spilt' in .*there are: backend, fed, split-1, split-2"):
        names("spilt")
    with pytest.raises(ConfigError, match="none, because nothing was started"):
        logs.files(Deployment(there.folder / "other"), ["fed"])


def test_ends(there: Deployment) -> None:
    def lines(count: int) -> list[str]:
        return [line for _, line in logs.read([there.log("fed")], count)]

    assert lines(2) == ["fed two", "fed three"]
    assert lines(100) == ["fed one", "fed two", "fed three"]
    assert lines(0) == []
    there.log("fed").write_bytes(b"whole\nhalf \xff")
    assert lines(1) == ["half \ufffd"]


def test_what_is_added_is_seen_line_by_line(there: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    written = iter([(True, "four\nfi"), (True, "ve\n"), (False, "new\n")])

    def write(_: float) -> None:
        append, text = next(written)
        with open(there.log("fed"), "a" if append else "w") as file:
            file.write(text)

    monkeypatch.setattr(logs.time, "sleep", write)
    following = logs.read([there.log("fed")], 1, follow=True)
    assert [next(following)[1] for _ in range(4)] == ["fed three", "four", "five", "new"]


def test_nothing_is_lost_between_the_end_and_what_is_added(there: Deployment) -> None:
    following = logs.read(logs.files(there), 1, follow=True)
    assert [line for _, line in (next(following) for _ in range(4))] == [
        f"{n} three" for n in ("backend", "fed", "split-1", "split-2")
    ]
    with open(there.log("fed"), "a") as file:
        file.write("four\n")
    assert next(following) == (there.log("fed"), "four")
