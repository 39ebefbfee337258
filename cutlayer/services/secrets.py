"""Secrets in files: read without surprises, made once, readable by their owner only."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from cutlayer.errors import ConfigError

STORE_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_CLIENT_SECRET",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
)
"""What an object store's client reads from the environment, and what may stand in a file named by ``<NAME>_FILE``."""

_LONGEST = 65536


def read_secret(path: Path, what: str) -> str:
    """Return the text in the file without blanks around it; ``what`` it is goes into the message.

    Raises ConfigError when it cannot be read, or is empty.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST + 1)
        text = data.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"expected {what} in the file {path}, and it cannot be read: {reason}") from error
    if not text or len(data) > _LONGEST:
        raise ConfigError(f"expected {what} in the file {path}, and it is {'too long' if text else 'empty'}")
    return text


def write_secret(path: Path, text: str) -> bool:
    """Write ``text`` into a new file of mode 0600; return whether it is new: a file that is there stays as it is.

    Several processes may do this at once: one of them wins, and no reader ever sees half a secret.
    Raises ConfigError when the file cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            return _linked(name, path)
        finally:
            os.unlink(name)
    except OSError as error:
        raise ConfigError(f"the secret file {path} cannot be written: {error.strerror}") from error


def _linked(name: str, path: Path) -> bool:
    try:
        os.link(name, path)
    except FileExistsError:
        return False
    return True


def read_or_make(path: Path, what: str) -> str:
    """Return the secret in the file, made at random (48 bytes, urlsafe) if there is no file.

    Raises ConfigError when it can neither be read nor written.
    """
    if not path.exists():
        write_secret(path, secrets.token_urlsafe(48))
    return read_secret(path, what)


def store_credentials_from_files(environ: MutableMapping[str, str]) -> None:
    """Fill the object store's credentials in ``environ`` from files: ``AWS_SECRET_ACCESS_KEY_FILE`` and its like.

    A variable that is set already stays.  Raises ConfigError when a named file cannot be read.
    """
    for name in STORE_CREDENTIALS:
        path = environ.get(f"{name}_FILE")
        if path and not environ.get(name):
            environ[name] = read_secret(Path(path), name)
