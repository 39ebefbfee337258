"""Finding and reading the files of a data set, with errors that say what is expected where."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable
from pathlib import Path

from cutlayer.errors import DataError


def folder(name: str, path: str | Path, inside: Iterable[str] = ()) -> Path:
    """Return the folder ``path``, or the first of its subfolders ``inside`` that exists.  Raises DataError."""
    root = Path(path).expanduser()
    if not root.is_dir():
        came = "it is a file" if root.exists() else "there is nothing"
        raise DataError(f"data {name} needs a folder at {root}, and {came}: set data.path to the folder of its files")
    for sub in inside:
        if (root / sub).is_dir():
            return root / sub
    return root


def file(name: str, path: str | Path) -> Path:
    """Return the file ``path``.  Raises DataError."""
    found = Path(path).expanduser()
    if not found.is_file():
        came = "it is a folder" if found.exists() else "there is nothing"
        raise DataError(f"data {name} needs a file at {found}, and {came}: set data.path to the file")
    return found


def one_of(name: str, root: Path, patterns: Iterable[str]) -> Path:
    """Return the only file of ``root`` that matches one of ``patterns``; the first pattern with a match decides."""
    patterns = tuple(patterns)
    for pattern in patterns:
        found = sorted(p for p in root.glob(pattern) if p.is_file())
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(
                f"data {name} needs one file {pattern} in {root}, and there are {', '.join(p.name for p in found)}: "
                "keep one of them"
            )
    here = ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "nothing"
    raise DataError(f"data {name} needs a file {' or '.join(patterns)} in {root}, and there is {here}: check data.path")


def content(name: str, path: Path) -> bytes:
    """Return the bytes of ``path``, unpacked if it ends in .gz.  Raises DataError if it is damaged."""
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"data {name} needs {path} to be a whole gzip file, and it is damaged ({error}): copy it again"
        ) from error
    except OSError as error:
        raise DataError(f"data {name} cannot read {path} ({error.strerror}): check its permissions") from error
