"""Certificates are for the names they say, signed by the one CA, and no key is readable by others."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from cutlayer.errors import ConfigError
from cutlayer.services.certs import describe, issue_client, issue_server, make_ca


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_ca_signs_certificates_and_no_further_ca(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    made = make_ca(folder, "hospitals")
    ca = read(made.cert)
    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.value.ca, basic.value.path_length, basic.critical) == (True, 0, True)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert not usage.digital_signature
    ca.verify_directly_issued_by(ca)
    assert mode(made.key) == 0o600
    assert mode(made.cert) == 0o644
    assert mode(folder) == 0o700


@pytest.mark.parametrize("kept", ["ca.pem", "ca.key"])
def test_a_ca_is_never_overwritten(tmp_path: Path, kept: str) -> None:
    made = make_ca(tmp_path)
    before = (tmp_path / kept).read_bytes()
    for path in (made.cert, made.key):
        if path.name != kept:
            path.unlink()
    with pytest.raises(ConfigError, match="already"):
        make_ca(tmp_path)
    assert (tmp_path / kept).read_bytes() == before


def test_a_servers_certificate_is_for_its_names(tmp_path: Path) -> None:
    ca = make_ca(tmp_path)
    made = issue_server(tmp_path, ["backend", "backend.example.org", "10.0.0.5", "::1", "*.split.example.org"])
    cert = read(made.cert)
    cert.verify_directly_issued_by(read(ca.cert))
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["backend", "backend.example.org", "*.split.example.org"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.5", "::1"]
    usage = cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    key = cert.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert (made.cert.name, mode(made.key)) == ("backend.pem", 0o600)
    assert cert.not_valid_before_utc < datetime.now(UTC) < made.until
    assert describe(made.cert) == made


def test_a_clients_certificate_is_for_clients_only(tmp_path: Path) -> None:
    make_ca(tmp_path)
    made = issue_client(tmp_path, "hospital-a")
    usage = read(made.cert).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert describe(made.cert).names == ("hospital-a",)


def test_issuing_again_renews(tmp_path: Path) -> None:
    make_ca(tmp_path)
    first = issue_server(tmp_path, ["split"], days=1)
    before, key = read(first.cert), first.key.read_bytes()
    second = issue_server(tmp_path, ["split"])
    after = read(second.cert)
    assert (second.cert, second.key) == (first.cert, first.key)
    assert after.serial_number != before.serial_number
    assert second.key.read_bytes() != key
    assert second.until - first.until > timedelta(days=300)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca.key", "ca.pem", "split.key", "split.pem"]


def test_no_certificate_outlives_its_ca(tmp_path: Path) -> None:
    ca = make_ca(tmp_path, days=10)
    assert issue_server(tmp_path, ["split"]).until == ca.until


@pytest.mark.parametrize("name", ["", "https://backend", "backend:7400", "a b", "-a", "a..b", "ä", "a/b", "x" * 64])
def test_what_is_no_host_is_refused(tmp_path: Path, name: str) -> None:
    make_ca(tmp_path)
    with pytest.raises(ConfigError):
        issue_server(tmp_path, [name], file="a")


@pytest.mark.parametrize("name", ["", "..", "../a", "a/b", ".hidden", "ca", "x" * 65])
def test_what_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "certs"
    make_ca(folder)
    with pytest.raises(ConfigError):
        issue_client(folder, name)
    assert [path.name for path in tmp_path.iterdir()] == ["certs"]


def test_without_a_ca_nothing_is_signed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="make one first"):
        issue_server(tmp_path, ["backend"])
    with pytest.raises(ConfigError, match="none came"):
        issue_server(tmp_path, [])


def test_a_ca_that_is_damaged_or_over_is_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    ca = make_ca(one)
    ca.key.write_bytes(make_ca(other).key.read_bytes())
    with pytest.raises(ConfigError, match="not the key of"):
        issue_client(one, "a")
    ca.key.write_text("nonsense")
    with pytest.raises(ConfigError, match="expected the key"):
        issue_client(one, "a")
    ca.cert.write_text("nonsense")
    with pytest.raises(ConfigError, match="PEM"):
        issue_client(one, "a")
    make_ca(tmp_path / "old", days=0)
    with pytest.raises(ConfigError, match="ended"):
        issue_client(tmp_path / "old", "a")
