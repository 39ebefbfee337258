"""TLS contexts: 1.2 or newer, the other side always verified against a CA that was chosen."""

from __future__ import annotations

import ssl
from pathlib import Path

from cutlayer.errors import ConfigError


def server_context(cert: Path, key: Path, client_ca: Path | None = None) -> ssl.SSLContext:
    """Return the context of a service with this certificate (chain) and key.

    With ``client_ca`` TLS is mutual: who shows no certificate that it signed is not let in.
    Raises ConfigError when a file is missing, or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_own(context, cert, key)
    if client_ca is not None:
        _load_ca(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(ca: Path | None = None, cert: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """Return the context of whoever connects; names are always checked.

    Args:
        ca: trust what this CA signed, and nothing else; the system's CAs if None.
        cert: what to show to a service with mutual TLS; ``key`` belongs to it.

    Raises ConfigError when a file is missing, or is not what it should be.
    """
    if ca is None:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _load_ca(context, ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if (cert is None) != (key is None):
        raise ConfigError("a client certificate needs its key, and the key its certificate: give both, or none")
    if cert is not None and key is not None:
        _load_own(context, cert, key)
    return context


def _load_own(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    for path in (cert, key):
        _readable(path)
    try:
        # An encrypted key would ask on the terminal; a service has none.
        context.load_cert_chain(cert, key, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"expected a certificate in {cert} and its key, without a passphrase, in {key}: {error}"
        ) from error


def _load_ca(context: ssl.SSLContext, ca: Path) -> None:
    _readable(ca)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise ConfigError(f"expected certificates of a CA in {ca}, in PEM form: {error}") from error


def _readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"the file {path} cannot be read: {error.strerror}") from error
