"""TLS is 1.2 or newer, between those that the same CA vouches for, under their names."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

import pytest

from cutlayer.errors import ConfigError
from cutlayer.services.certs import issue_client, issue_server, make_ca
from cutlayer.services.tls import client_context, server_context


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str = "backend") -> str:
    """Let both sides talk in memory; returns the version, raises SSLError from whichever side refuses."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [server.wrap_bio(up, down, server_side=True), client.wrap_bio(down, up, server_hostname=name)]
    done = [False, False]
    for _ in range(10):
        for side in (1, 0):
            if not done[side]:
                try:
                    sides[side].do_handshake()
                    done[side] = True
                except ssl.SSLWantReadError:
                    pass
    # In TLS 1.3 a refused client learns of it only when it reads.
    with contextlib.suppress(ssl.SSLWantReadError):
        sides[1].read(1)
    assert all(done)
    return str(sides[1].version())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    make_ca(folder)
    issue_server(folder, ["backend", "10.0.0.5"])
    issue_client(folder, "hospital-a")
    make_ca(folder / "other")
    issue_server(folder / "other", ["backend"])
    issue_client(folder / "other", "hospital-a")
    return folder


def server(folder: Path, mutual: bool = False) -> ssl.SSLContext:
    return server_context(folder / "backend.pem", folder / "backend.key", folder / "ca.pem" if mutual else None)


def test_who_pins_the_ca_is_connected(folder: Path) -> None:
    assert handshake(server(folder), client_context(folder / "ca.pem")) == "TLSv1.3"
    assert handshake(server(folder), client_context(folder / "ca.pem"), "10.0.0.5") == "TLSv1.3"


@pytest.mark.parametrize("name", ["split", "10.0.0.6", "backend.example.org"])
def test_another_name_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(server(folder), client_context(folder / "ca.pem"), name)


def test_another_ca_is_refused(folder: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server(folder), client_context(folder / "other" / "ca.pem"))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server(folder), client_context())


def test_with_mutual_tls_only_our_clients_are_let_in(folder: Path) -> None:
    ca = folder / "ca.pem"
    assert handshake(server(folder, True), client_context(ca, folder / "hospital-a.pem", folder / "hospital-a.key"))
    with pytest.raises(ssl.SSLError):
        handshake(server(folder, True), client_context(ca))
    other = folder / "other"
    with pytest.raises(ssl.SSLError):
        handshake(server(folder, True), client_context(ca, other / "hospital-a.pem", other / "hospital-a.key"))


def test_a_clients_certificate_does_not_make_a_server(folder: Path) -> None:
    impostor = server_context(folder / "hospital-a.pem", folder / "hospital-a.key")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(impostor, client_context(folder / "ca.pem"), "hospital-a")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_are_refused(folder: Path) -> None:
    assert server(folder).minimum_version == ssl.TLSVersion.TLSv1_2
    old = client_context(folder / "ca.pem")
    assert old.minimum_version == ssl.TLSVersion.TLSv1_2
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        handshake(server(folder), old)


def test_files_that_are_missing_or_wrong_are_named(folder: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("nonsense")
    with pytest.raises(ConfigError, match=r"none\.pem cannot be read"):
        server_context(tmp_path / "none.pem", folder / "backend.key")
    with pytest.raises(ConfigError, match=r"wrong\.pem"):
        server_context(wrong, folder / "backend.key")
    with pytest.raises(ConfigError, match=r"hospital-a\.key"):
        server_context(folder / "backend.pem", folder / "hospital-a.key")
    with pytest.raises(ConfigError, match=r"wrong\.pem"):
        client_context(wrong)
    with pytest.raises(ConfigError, match="both, or none"):
        client_context(folder / "ca.pem", folder / "hospital-a.pem")
