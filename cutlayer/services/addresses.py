"""Which addresses may be used without TLS: those that never leave this machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from cutlayer.errors import ConfigError


def is_loopback(host: str) -> bool:
    """Return whether ``host`` is this machine and cannot be reached from another: 127.0.0.0/8, ::1, localhost."""
    name = host.strip("[]").lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


def check_bind(host: str, tls: bool, insecure: bool) -> None:
    """Refuse to listen where others can connect, without TLS.

    Raises ConfigError unless the address is loopback, or ``tls`` is on, or ``insecure`` is said.
    """
    if not (tls or insecure or is_loopback(host)):
        raise ConfigError(
            f"listening on {host!r} without TLS lets everyone on the way read tokens and model: give --tls-cert and "
            "--tls-key (`cutlayer certs` makes them), listen on 127.0.0.1, or say --insecure where something else "
            "encrypts"
        )


def check_url(url: str, insecure: bool, what: str = "the URL") -> str:
    """Return ``url`` without a slash at its end, if tokens may be sent there.

    Raises ConfigError unless it is https, or http to this machine, or http and ``insecure`` is said; and for anything
    that is no plain http(s) URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{what} must be like https://host:port, and {url!r} came: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigError(f"{what} must be like https://host:port, and {url!r} came")
    if parts.username or parts.password:
        raise ConfigError(f"{what} must not hold a name or password: give the token by --token-file")
    if parts.query or parts.fragment:
        raise ConfigError(f"{what} must end with its path, and {url!r} came")
    if parts.scheme == "http" and not (insecure or is_loopback(parts.hostname)):
        raise ConfigError(
            f"{what} {url!r} would send tokens and model in the clear: use https://, or say --insecure where something "
            "else encrypts"
        )
    return url.rstrip("/")
