"""Every snippet in README, CONTRIBUTING and docs runs, and their tables say what the code says.

Python blocks run in order, in one namespace per page; a comment behind or below a ``print`` is what it prints.  YAML
blocks are experiments.  In console blocks, lines after ``$`` are commands and the others their output: it must match,
numbers aside, and ``...`` stands for anything.  A block whose first line is ``# name.py`` or ``# name.yaml`` is written
to that file; if the repository has that file, the block must equal it.  Everything happens in an empty folder that
holds a copy of ``examples/``.

A comment right above a block may say ``not run: <why>``, ``read only: <why>`` (YAML that needs data) or
``needs: <module>``.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import cutlayer
from cutlayer import cli, config, errors
from cutlayer.api import run_experiment
from cutlayer.codecs import CODECS
from cutlayer.config import Experiment
from cutlayer.data import SCHEMES, SOURCES
from cutlayer.models import DEFAULT_CUTS, MODELS
from cutlayer.models.auxiliary import KINDS
from cutlayer.recipes import RECIPES
from cutlayer.roles.aggregators import AGGREGATORS
from cutlayer.transforms import KINDS as MESSAGES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROUNDS = 2
"""How many rounds a command runs that does not say."""


@dataclass
class Block:
    """A fenced block: its language, text, first line's number, and what the comment above it says."""

    language: str
    text: str
    line: int
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def file(self) -> str | None:
        """The file that the block is, if it is one."""
        found = re.match(r"# ([\w./-]+\.(?:py|yaml))\n", self.text)
        return found[1] if found and self.language in ("python", "yaml") else None


def blocks(page: Path) -> Iterator[Block]:
    language, start, lines, above = "", 0, [], ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if not language and line.startswith("```"):
            language, start, lines = line[3:].strip() or "none", number + 1, []
        elif language and line == "```":
            notes = dict(re.findall(r"<!-- (not run|read only|needs): (.+?) -->", above))
            yield Block(language, "\n".join(lines) + "\n", start, notes)
            language, above = "", ""
        elif language:
            lines.append(line)
        elif line.strip():
            above = line
    assert not language, f"{page.name}: a block that begins at line {start} has no end"


def called(page: Path) -> str:
    return str(page.relative_to(ROOT))


# --- running ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder with the examples; what is imported from it is forgotten afterwards."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    path, modules = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(tmp_path))
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=called)
def test_every_snippet_runs(page: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if "not run" in block.notes:
            continue
        if (needed := block.notes.get("needs")) and importlib.util.find_spec(needed) is None:
            continue
        where = f"{called(page)}, line {block.line}"
        if block.file is not None:
            _place(block, here, where)
        if block.language == "python":
            if block.file is None:
                _python(block, page, namespace, capsys)
        elif block.language == "yaml":
            _experiment(block)
        elif block.language == "console":
            _console(block, where, capsys)
        else:
            assert block.language == "text", f"{where}: {block.language} is no language that is run; text is"


def _place(block: Block, here: Path, where: str) -> None:
    assert block.file is not None
    if (ROOT / block.file).exists():
        body = block.text.partition("\n")[2]
        assert body == (ROOT / block.file).read_text(), f"{where}: this block and {block.file} differ"
    (here / block.file).write_text(block.text)


def _python(block: Block, page: Path, namespace: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Run the block; a comment behind or below a ``print`` is what it prints."""
    capsys.readouterr()
    exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)
    printed = capsys.readouterr().out
    for said in re.findall(r"^ *print\(.*\)(?:  |\n)# (.+)$", block.text, flags=re.MULTILINE):
        assert said in printed, f"{called(page)}, line {block.line}: expected {said!r} to be printed, got {printed!r}"


def _experiment(block: Block) -> None:
    Path("block.yaml").write_text(block.text)
    experiment = config.load("block.yaml")
    if "read only" not in block.notes:
        run_experiment(experiment.model_copy(update={"rounds": 1, "seeds": 1}))


def _console(block: Block, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = 0
    for command, expected in _commands(block.text):
        words = shlex.split(command)
        if words == ["echo", "$?"]:
            shown, code = f"{code}\n", 0
        elif words[0] == "cutlayer":
            code, shown = _cutlayer(words[1:], capsys)
            failed = expected.startswith("cutlayer: ")
            assert failed == (code != 0), f"{where}: {command} ended with code {code}:\n{shown}"
        else:
            assert words[0] in ("ls", "cat", "head"), f"{where}: {words[0]} is not run in a test"
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            code, shown = 0, done.stdout
        assert _matches(expected, shown), f"{where}: {command} printed\n{shown}\nand not\n{expected}"


def _commands(text: str) -> Iterator[tuple[str, str]]:
    found = re.split(r"^\$ ", text, flags=re.MULTILINE)
    assert not found[0].strip(), "a console block begins with a command"
    for each in found[1:]:
        command, _, output = each.replace("\\\n", "").partition("\n")
        yield command, output


def _cutlayer(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run the command line in this process; returns exit code, and standard error followed by standard output."""
    if words[:1] == ["run"] and not any(w.startswith("rounds=") for w in words):
        words = [*words, f"rounds={ROUNDS}"]
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cutlayer", *words])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, err + out


def _matches(expected: str, shown: str) -> bool:
    wanted, given = _plain(expected), _plain(shown)
    pattern = "".join(r"(?:.*\n)*?" if line == "..." else re.escape(line) + r"\n" for line in wanted)
    return re.fullmatch(pattern, "".join(line + "\n" for line in given)) is not None


def _plain(text: str) -> list[str]:
    """Return the lines without frames, blank lines, folding of blanks, and with # for every number and its unit."""
    text = re.sub(r"[\u2500-\u257f]", " ", text)
    text = re.sub(r"\d+(?:[.,\u202f ]\d+)*", "#", text)
    text = re.sub(r"#(?: min #)? (?:[KMG]iB|B|ms|s|min)\b", "#", text)
    text = re.sub(r"# ± #", "#", text)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    return [line for line in lines if line]


def test_a_command_that_fails_or_prints_something_else_is_noticed() -> None:
    assert _matches("a\n...\nz 5 KiB\n", "a\nb\nc\nz 1.5 MiB\n")
    assert _matches("...\n", "")
    assert not _matches("a\nz\n", "a\nb\nz\n")
    assert not _matches("speed 5\n", "sped 5\n")


def test_few_blocks_are_not_run() -> None:
    left = [(called(page), b.line, b.notes["not run"]) for page in PAGES for b in blocks(page) if "not run" in b.notes]
    assert len(left) <= 5, left
    read = [called(page) for page in PAGES for b in blocks(page) if "read only" in b.notes]
    assert len(read) <= 4, read


# --- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=called)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        there = page.parent / name if name else page
        assert there.exists(), f"{called(page)} links to {target}"
        if anchor:
            assert anchor in _anchors(there), f"{called(page)} links to {target}; there are {_anchors(there)}"


@pytest.mark.parametrize("page", PAGES, ids=called)
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"`((?:tests|cutlayer|docs|benchmarks|examples)/[\w./-]*)`", _prose(page)):
        assert (ROOT / name).exists(), f"{called(page)} names {name}"


def test_the_index_leads_to_every_page() -> None:
    index = (ROOT / "docs/index.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"]({page.name})" in index, page.name


def _prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --- tables ----------------------------------------------------------------------------------------------------------


def _table(page: str, *columns: str) -> list[dict[str, str]]:
    """Return the rows of the page's table whose head begins with ``columns``."""
    lines = (ROOT / page).read_text().splitlines()
    for number, line in enumerate(lines):
        head = _cells(line)
        if head[: len(columns)] == list(columns):
            body = []
            for each in lines[number + 2 :]:
                if not each.startswith("|"):
                    break
                body.append(dict(zip(head, _cells(each), strict=True)))
            return body
    raise AssertionError(f"{page} has no table of {columns}")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_key_of_an_experiment_is_documented_with_its_default() -> None:
    rows = {_names(row["key"])[0]: _names(row["default"])[0] for row in _table("docs/experiment-file.md", "key")}
    assert list(rows) == list(Experiment.model_fields)
    for key, default in rows.items():
        assert config.load(None, [f"{key}={default}"]) == Experiment(), f"{key} is not {default} by default"


def test_the_zoo_is_documented() -> None:
    rows = _table("docs/experiment-file.md", "name", "options")
    found = {name: row for row in rows for name in _names(row["name"])}
    assert list(found) == list(MODELS)
    for name, row in found.items():
        assert _names(row["cut by default"]) == DEFAULT_CUTS[name]["one"]
        assert _names(row["U-shape"]) == DEFAULT_CUTS[name]["two"]


def test_every_algorithm_is_in_the_readme_with_its_choices() -> None:
    rows = {_names(row["algorithm"])[0]: row for row in _table("README.md", "algorithm")}
    assert list(rows) == list(RECIPES)
    for name, row in rows.items():
        recipe = RECIPES[name]
        if not recipe.whole:
            assert row["labels"] == recipe.labels
            assert row["backbone"].startswith({"shared": "one", "per_client": "one per client"}[recipe.server])
        feedback = {
            "cut_gradient": "cut gradient",
            "averaged_cut_gradient": "mean cut gradient",
            "auxiliary": "local loss",
            "estimated": "estimated cut gradient",
            "whole_model": "whole model",
        }
        assert row["encoder learns from"] == feedback[str(recipe.feedback)]
        averaged = row["averaged each round"].replace("whole model", "encoder, backbone, head")
        assert set(re.findall(r"[a-z]+", averaged)) & {"encoder", "backbone", "head", "auxiliary"} == set(
            recipe.averaged
        )


def test_every_algorithm_is_explained() -> None:
    text = (ROOT / "docs/algorithms.md").read_text()
    for name, recipe in RECIPES.items():
        assert f"`{name}`" in text, name
        if (year := re.search(r"\b(?:19|20)\d\d\b", recipe.source)) and name not in ("splitfed_u", "psl"):
            assert year[0] in text, name


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("docs/data.md", [*SOURCES, *SCHEMES]),
        ("docs/codecs.md", [*CODECS, *MESSAGES]),
        ("docs/algorithms.md", [*KINDS, *AGGREGATORS]),
        ("docs/experiment-file.md", [*KINDS, *AGGREGATORS, *CODECS][:-4]),
        ("docs/python.md", [name for name in cutlayer.__all__ if name != "__version__"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_everything_that_can_be_named_is_named(page: str, names: list[str]) -> None:
    known = set(re.findall(r"`([\w.]+)`", _prose(ROOT / page)))
    assert set(names) <= known, set(names) - known


def test_exit_codes() -> None:
    rows = {int(row["code"]): _names(row["error"]) for row in _table("docs/troubleshooting.md", "code", "error")}
    assert rows[0] == rows[130] == []
    documented = {names[0]: code for code, names in rows.items() if names}
    named = [kind for kind in errors.CutlayerError.__subclasses__() if kind.__module__ == errors.__name__]
    subclasses = [errors.CutlayerError, *named]
    assert documented == {kind.__name__: kind.exit_code for kind in subclasses}


def test_the_files_of_a_run_folder(tmp_path: Path) -> None:
    cutlayer.run("file_sync", "mlp", "digits", rounds=1, out=str(tmp_path / "run"))
    documented = [n.rstrip("/") for row in _table("docs/results.md", "file", "what") for n in _names(row["file"])]
    assert sorted(documented) == sorted(path.name for path in (tmp_path / "run").iterdir() if path.name != ".lock")


def test_the_keys_of_a_line_of_metrics() -> None:
    results = [cutlayer.run(name, "mlp", "digits", rounds=1) for name in ("file_sync", "splitfed_async")]
    documented = [n for row in _table("docs/results.md", "key", "what") for n in _names(row["key"])]
    assert sorted(documented) == sorted(set().union(*(result.metrics[0] for result in results)))


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_example_files_are_experiments(path: Path) -> None:
    assert yaml.safe_load(path.read_text())
    run_experiment(config.load(path).model_copy(update={"rounds": 1}))
