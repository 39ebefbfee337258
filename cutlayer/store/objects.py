"""A store in a local folder, S3, Google or Azure storage, through `obstore`: the truth that many processes share.

An object is one message (`cutlayer.wire`), so any safetensors reader opens it.  Its meta begins with a checksum of the
whole object (XXH3 of 64 bits: a tenth of CRC-32's time), taken with its own digits as zeros, and its path: a torn,
truncated, changed or foreign object, and one that belongs elsewhere, is a `DamagedObject` and never data.

In a local folder (`cutlayer.store.folder`) readers and SIGKILL meet whole objects only.  Nothing calls fsync: after a
power failure an object may be torn, which the checksum tells; ``sync=True`` pays for an fsync per object and makes what
was put survive that too.  A writer that was killed leaves its file ``name#1`` behind; `sweep` removes these.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from obstore import exceptions
from obstore import store as backends
from xxhash import xxh3_64

from cutlayer import wire
from cutlayer.errors import ConfigError, DamagedObject, MissingObject, NoSpace, ObjectExists, StoreError, WireError
from cutlayer.store.base import Meta, Paths, Tensors, check
from cutlayer.store.folder import Folder, staged
from cutlayer.store.remote import Remote

_KIND = "object"
_DIGITS = 16
_ZEROS = "0" * _DIGITS
_PREFIX = (
    b'{"__metadata__":{"cutlayer":"{\\"format\\":%d,\\"kind\\":\\"object\\",\\"meta\\":{\\"sum\\":\\"' % wire.FORMAT
)
_AT = 8 + len(_PREFIX)
_PEEKED = 16384
_FULL = re.compile(
    r"(os error|Errno) (28|122|27)\b|No space left|quota|EntityTooLarge|InsufficientStorage", re.IGNORECASE
)


class ObjectStore:
    """Keeps tensors as objects below one root.

    Args:
        url: a local folder (which is made), ``memory://``, or a URL that obstore knows: ``s3://bucket/prefix``,
            ``gs://...``, ``az://...``.
        options: obstore's configuration, e.g. ``endpoint``, ``region``, ``access_key_id``; by default from the
            environment.
        sync: fsync every object put into a local folder before returning.

    Raises:
        StoreError: the folder cannot be made or used.
        ConfigError: the URL or an option is not understood.
    """

    def __init__(self, url: str | os.PathLike[str], *, sync: bool = False, **options: Any) -> None:
        self.url = os.fspath(url)
        self.folder: Path | None = None
        self._sync = sync
        self._objects: Folder | Remote
        if self.url.startswith("file://") or "://" not in self.url:
            self.folder = Path(self.url.removeprefix("file://")).absolute()
            with _explained(self.url, "open"):
                self.folder.mkdir(parents=True, exist_ok=True)
            self._objects = Folder(self.folder)
        elif self.url == "memory://":
            self._objects = Remote(backends.MemoryStore())
        else:
            self._objects = Remote(_opened(self.url, options))

    def put(self, path: str, tensors: Tensors, meta: Meta | None = None, *, if_absent: bool = False) -> None:
        buffers = wire.parts(wire.Message(_KIND, tensors, {"sum": _ZEROS, "path": check(path), "meta": meta or {}}))
        checksum = xxh3_64()
        for buffer in buffers:
            checksum.update(buffer)
        header = bytes(buffers[0])
        buffers[0] = header[:_AT] + checksum.hexdigest().encode() + header[_AT + _DIGITS :]
        with _explained(path, "write"):
            if not self._objects.put(path, buffers, if_absent=if_absent):
                raise ObjectExists(f"{path} exists already in the store; another writer was first")
            if self._sync and self.folder is not None:
                _flush(self.folder / path, self.folder)

    def get(self, path: str) -> tuple[Tensors, Meta]:
        with _explained(path, "read"):
            data = memoryview(self._objects.get(check(path)))
        if data[8:_AT] != _PREFIX:
            raise _damaged(path, f"{len(data)} bytes that cutlayer did not write, or not to their end")
        checksum = xxh3_64(data[:_AT])
        checksum.update(_ZEROS.encode())
        checksum.update(data[_AT + _DIGITS :])
        if data[_AT : _AT + _DIGITS] != checksum.hexdigest().encode():
            raise _damaged(path, f"{len(data)} bytes that are torn or changed: their checksum is wrong")
        try:
            message = wire.decode(data, max_bytes=1 << 62)
        except WireError as error:
            raise _damaged(path, f"something else: {error}") from error
        return message.tensors, _meta(path, message.meta)

    def meta(self, path: str) -> Meta:
        with _explained(path, "read"):
            data = self._objects.get(check(path), _PEEKED)
            if len(data) == _PEEKED < (length := wire.header_bytes(data)) <= wire.MAX_HEADER:
                data = self._objects.get(path, length)
        if not data:
            raise _damaged(path, "nothing")
        try:
            kind, meta = wire.peek(data)
        except WireError as error:
            raise _damaged(path, f"something else: {error}") from error
        if kind != _KIND:
            raise _damaged(path, f"a message of kind {kind!r}")
        return _meta(path, meta)

    def delete(self, path: str) -> None:
        try:
            with _explained(path, "delete"):
                self._objects.delete(check(path))
        except MissingObject:
            return

    def recycle(self, path: str) -> None:
        try:
            with _explained(path, "delete"):
                self._objects.recycle(check(path))
        except MissingObject:
            return

    def list(self, prefix: str) -> Paths:
        return sorted(path for path, _ in self._entries(prefix))

    def exists(self, path: str) -> bool:
        with _explained(path, "look for"):
            return self._objects.exists(check(path))

    def size_bytes(self, prefix: str = "") -> int:
        return sum(size for _, size in self._entries(prefix))

    def _entries(self, prefix: str) -> Iterator[tuple[str, int]]:
        prefix = check(prefix.rstrip("/")) if prefix else ""
        with _explained(prefix or "the store", "list"):
            yield from self._objects.entries(prefix)

    def sweep(self, older_than: float = 3600.0) -> int:
        """Remove from a local folder what killed writers left and empty folders, if unchanged for so many seconds.

        Returns the bytes freed.  (A folder that were removed as soon as it is empty would fail writers that are about
        to use it.)
        """
        freed, limit = 0, time.time() - older_than
        for folder, _, names in os.walk(self.folder, topdown=False) if self.folder is not None else ():
            with _explained(folder, "sweep"):
                for file in (Path(folder, name) for name in names if staged(name)):
                    if (stat := file.stat()).st_mtime < limit:
                        file.unlink(missing_ok=True)
                        freed += stat.st_size
                if Path(folder) != self.folder and os.stat(folder).st_mtime < limit and not os.listdir(folder):
                    os.rmdir(folder)
        return freed


def _opened(url: str, options: Mapping[str, Any]) -> Any:
    client = options.get("client_options")
    config = {key: value for key, value in options.items() if key != "client_options"}
    retry = {"max_retries": 4, "retry_timeout": timedelta(seconds=30)}
    open_url: Any = backends.from_url
    try:
        return open_url(url, config=config or None, client_options=client, retry_config=retry)
    except (exceptions.BaseError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"the store {url!r} cannot be opened: {_first_line(error)}") from error


def _meta(path: str, said: Meta) -> Meta:
    meta = said.get("meta")
    if said.get("path") != path or not isinstance(meta, dict):
        raise _damaged(path, f"the object that belongs at {said.get('path')!r}")
    return meta


def _damaged(path: str, found: str) -> DamagedObject:
    return DamagedObject(f"expected an object of cutlayer at {path}, found {found}; restore or delete it")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class _explained:  # noqa: N801 (read as a word: with _explained(path, "read"))
    """Turns what obstore and the operating system raise inside into cutlayer's errors."""

    __slots__ = ("_path", "_what")

    def __init__(self, path: str, what: str) -> None:
        self._path, self._what = path, what

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        path, what, text = self._path, self._what, _first_line(error)
        if isinstance(error, FileNotFoundError | exceptions.NotFoundError):
            raise MissingObject(f"{path} is not in the store; it was never written, or deleted") from error
        if not isinstance(error, exceptions.BaseError | OSError):
            return
        if _FULL.search(str(error)):
            raise NoSpace(f"cannot {what} {path}: the disk or quota is full ({text}); free some space") from error
        raise StoreError(f"cannot {what} {path}: {text}; check that the store can be reached and written") from error


def _flush(file: Path, root: Path) -> None:
    """Make a file and the entries of its folders survive a power failure."""
    for each in (file, *file.parents):
        handle = os.open(each, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        if each == root:
            return
