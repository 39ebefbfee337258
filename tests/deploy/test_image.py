"""The image: pinned, small in rights, built from what is in the repository."""

from __future__ import annotations

import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

from cutlayer.services import probe

from .settings import ROLES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text()
LINES = [
    " ".join(line.split()) for line in re.sub(r"\\\n", " ", TEXT).splitlines() if line and not line.startswith("#")
]


def instructions(word: str) -> list[str]:
    return [line.removeprefix(f"{word} ") for line in LINES if line.startswith(f"{word} ")]


def test_the_base_is_pinned() -> None:
    assert {line.split()[0] for line in instructions("FROM")} == {"python:${PYTHON}"}
    (python,) = [line for line in instructions("ARG") if line.startswith("PYTHON=")]
    assert re.fullmatch(r"PYTHON=3\.\d+\.\d+-slim-\w+", python)


def test_the_process_is_nobody() -> None:
    last = LINES[max(n for n, line in enumerate(LINES) if line.startswith("FROM ")) :]
    (user,) = [line for line in last if line.startswith("USER ")]
    assert user == "USER 10001:10001"
    assert last.index(user) < last.index('ENTRYPOINT ["cutlayer"]')
    assert not [line for line in last[last.index(user) :] if line.startswith(("RUN", "COPY"))]


def test_nothing_is_fetched_but_packages() -> None:
    assert not instructions("ADD")
    assert not re.search(r"\bcurl\b|\bwget\b|apt-get|git clone", TEXT)
    assert not re.search(r"(?i)(token|password|secret)\w*=", TEXT)


def test_what_is_copied_is_there_and_not_ignored() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    for line in instructions("COPY"):
        if line.startswith("--from"):
            continue
        *sources, _ = line.split()
        for source in sources:
            assert (ROOT / source).exists()
            assert f"!{source}" in rules
    for name in ("tests", ".git", "secrets", "deploy", ".cutlayer"):
        assert f"!{name}" not in rules
    assert any(fnmatch("cutlayer/x/__pycache__", rule) for rule in rules[1:])


def test_the_torch_of_the_image_is_that_of_the_makefile_and_extras_exist() -> None:
    (torch,) = [line for line in instructions("ARG") if line.startswith("TORCH=")]
    assert torch.removeprefix("TORCH=") in (ROOT / "Makefile").read_text()
    assert "https://download.pytorch.org/whl/cpu" in TEXT
    (extras,) = [line for line in instructions("ARG") if line.startswith("EXTRAS=")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras.removeprefix("EXTRAS=").split(",")) <= set(project["optional-dependencies"])


def test_its_variables_are_read_by_every_role() -> None:
    names = {name for line in instructions("ENV") for name in re.findall(r"\bCUTLAYER_(\w+)=", line)}
    assert names
    for kind in ROLES.values():
        assert {name.lower() for name in names} <= set(kind.model_fields)
    exposed = {int(port) for line in instructions("EXPOSE") for port in line.split()}
    assert exposed == {kind.read({}).port for kind in ROLES.values()}


def test_it_is_checked_by_the_probe() -> None:
    (check,) = instructions("HEALTHCHECK")
    assert json.loads(check.partition("CMD ")[2]) == ["python", "-m", probe.__name__]
