"""The report stands alone, is well formed, and says what the files say."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cutlayer.report import load_run, write_report
from cutlayer.report.describe import ALGORITHMS
from cutlayer.report.units import format_bytes, format_share

from .conftest import WriteRun

VOID = {"meta", "img", "br", "rect", "link", "input"}


class Reader(HTMLParser):
    """Checks that elements nest, and collects what a page refers to and says."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def read(path: Path) -> tuple[Reader, str]:
    markup = path.read_text("utf-8")
    reader = Reader()
    reader.feed(markup)
    reader.close()
    assert reader.open == []
    return reader, markup


VARIANTS = [
    {},
    {"clients": 1},
    {"clients": 200},
    {"optional": False},
    {"finished": False, "torn": True},
    {"algorithm": "centralized", "bytes_per_round": 0},
    {"algorithm": "<script>"},
]


@pytest.mark.parametrize("options", VARIANTS)
def test_the_page_is_well_formed_and_alone(write_run: WriteRun, options: dict[str, object]) -> None:
    reader, markup = read(write_report(write_run("run", **{"rounds": 4, **options})))
    assert not {"script", "link", "iframe", "object", "base"} & set(reader.tags)
    for tag, name, value in reader.attributes:
        assert not name.startswith("on")
        assert name not in ("style", "srcset", "href")
        if name == "src":
            assert tag == "img"
            assert value.startswith("data:image/png;base64,")
    assert "url(" not in markup
    assert "@import" not in markup
    assert all(value for tag, name, value in reader.attributes if (tag, name) == ("img", "alt"))


def test_the_policy_allows_the_style_sheet_and_nothing_else(write_run: WriteRun) -> None:
    _, markup = read(write_report(write_run("run", rounds=2)))
    css = re.search(r"<style>(.*)</style>", markup, re.DOTALL)
    assert css is not None
    digest = base64.b64encode(hashlib.sha256(css[1].encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'" in markup


def test_the_page_says_what_the_files_say(write_run: WriteRun) -> None:
    folder = write_run("run", rounds=7, clients=3)
    run = load_run(folder).runs[0]
    reader, _ = read(write_report(folder))
    said = " ".join(reader.words)
    assert format_share(run.final_accuracy) in said
    assert format_bytes(run.bytes_up) in said
    assert format_bytes(run.bytes_down) in said
    assert ALGORITHMS["file_sync"][0] in said
    assert "torch" in said
    assert "No labels were sent" in said
    assert "alpha: 0.5" in said
    for line in run.rounds:
        assert format_share(line.test_accuracy) in said
    for accuracy in run.rounds[-1].client_accuracy.values():
        assert format_share(accuracy) in said
    assert len([tag for tag in reader.tags if tag == "img"]) == len(list(folder.glob("*.png")))


def test_names_that_hold_markup_are_shown_as_text(write_run: WriteRun, hostile_names: list[str]) -> None:
    options = {"model": "<b>bold</b>", "data": {"name": "a&b", "root": '"><script>'}}
    reader, markup = read(write_report(write_run("run", names=hostile_names, rounds=2, config=options)))
    assert "script" not in reader.tags
    assert "b" not in reader.tags
    said = "".join(reader.words)
    assert '<script>alert("x")</script>' in said
    assert "<b>bold</b>" in said
    assert "病院" in said
    assert "\u202e" not in markup
    assert "\x00" not in markup


def test_an_unfinished_run_says_so(write_run: WriteRun) -> None:
    reader, _ = read(write_report(write_run("run", rounds=8, finished=False)))
    assert "unfinished: 4 of 8 rounds" in " ".join(reader.words)
    reader, _ = read(write_report(write_run("done", rounds=8)))
    assert "is unfinished" not in " ".join(reader.words)


def test_a_run_without_a_round_still_has_a_page(write_run: WriteRun) -> None:
    folder = write_run("run", rounds=2, finished=False)
    (folder / "metrics.jsonl").unlink()
    reader, _ = read(write_report(folder))
    assert "No round has finished yet." in " ".join(reader.words)


def test_seeds_are_reported_with_their_spread(write_group: WriteRun) -> None:
    folder = write_group("group", seeds=3, rounds=4, config={"seeds": 4})
    reader, _ = read(write_report(folder))
    said = " ".join(reader.words)
    assert " ± " in said
    assert "3 of 4 seeds are there" in said
    for run in load_run(folder).runs:
        assert format_share(run.final_accuracy) in said


def test_the_command_is_shown_quoted(write_run: WriteRun) -> None:
    folder = write_run("run", rounds=2)
    summary = (folder / "summary.json").read_text()
    (folder / "summary.json").write_text(summary[:-1] + ', "command": ["cutlayer", "run", "a b.yaml"]}')
    assert "cutlayer run 'a b.yaml'" in "".join(read(write_report(folder))[0].words)


def test_writing_twice_gives_the_same_page(write_run: WriteRun) -> None:
    folder = write_run("run", rounds=3)
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_every_algorithm_is_described() -> None:
    names = """centralized local fedavg vanilla ushaped psl splitfed_v1 splitfed_v2 splitfed_v3 splitfed_u file_sync
    sglr cse_fsl fsl_sage"""
    assert set(ALGORITHMS) >= set(names.split())
