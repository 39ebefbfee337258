"""A client's place on disk: what was written is there, what is torn did not come, a full disk says so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from cutlayer.errors import NoSpace
from cutlayer.services.client.place import Place


def test_the_journal_gives_back_what_was_written_up_to_a_torn_end(tmp_path: Path) -> None:
    place = Place(tmp_path, "run")
    place.save({"w": torch.ones(2)}, {"round": 1})
    for content in (b"one", b"", b"three" * 1000):
        place.write(content)
    place.close()
    journal = next((tmp_path / "runs" / "run").glob("journal-*"))
    journal.write_bytes(journal.read_bytes()[:-1])
    again = Place(tmp_path, "run")
    assert again.load() is not None
    assert list(again.replies()) == [b"one", b""]
    again.write(b"more")
    assert list(again.replies()) == [b"one", b"", b"more"]


def test_a_new_place_makes_the_journal_before_it_void(tmp_path: Path) -> None:
    place = Place(tmp_path, "run")
    place.write(b"old")
    place.save({}, {"round": 1})
    assert list(place.replies()) == []
    assert not list((tmp_path / "runs" / "run").glob("journal-*"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_a_full_disk_says_so(tmp_path: Path) -> None:
    place = Place(tmp_path, "run")
    place.save({}, {})
    (tmp_path / "runs" / "run" / "journal-1").symlink_to("/dev/full")
    with pytest.raises(NoSpace, match="journal-1"):
        place.write(b"reply")
