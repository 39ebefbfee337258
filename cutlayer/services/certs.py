"""A small certificate authority in a folder: for services that have no certificates from elsewhere.

    make_ca("certs")                                       certs/ca.pem, certs/ca.key
    issue_server("certs", ["backend", "10.0.0.5"])         certs/backend.pem, certs/backend.key
    issue_client("certs", "hospital-a")                    certs/hospital-a.pem, certs/hospital-a.key

``ca.pem`` goes to everyone who connects, a ``.pem`` and ``.key`` to whom they are named after, and ``ca.key`` nowhere:
keep it off the machines that serve.  All keys are P-256 and their files are readable by their owner only (0600).
"""

from __future__ import annotations

import ipaddress
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cutlayer.errors import ConfigError

CA_DAYS = 3650
DAYS = 397
"""How long a server's or client's certificate holds: the longest that all TLS libraries accept."""

_SKEW = timedelta(hours=1)
"""A certificate holds from a little before it was made, for clocks that differ."""
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(r"(?:\*\.)?(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key in files, the names that it is for, and until when it holds."""

    cert: Path
    key: Path
    names: tuple[str, ...]
    until: datetime


def make_ca(folder: str | os.PathLike[str], name: str = "cutlayer", days: int = CA_DAYS) -> Issued:
    """Make a new CA in ``folder``, which can sign certificates of servers and clients, and no further CA.

    Raises ConfigError when there is one already: every certificate that it signed would be worth nothing.
    """
    folder = Path(folder)
    cert, key = folder / "ca.pem", folder / "ca.key"
    for path in (cert, key):
        if path.exists():
            raise ConfigError(f"there is a CA in {folder} already ({path.name}): use it, or choose another folder")
    own = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(f"{name} CA")
    until = _now() + timedelta(days=days)
    made = (
        _builder(subject, subject, own.public_key(), until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        .sign(own, hashes.SHA256())
    )
    _write(key, _pem_of(own), 0o600)
    _write(cert, made.public_bytes(serialization.Encoding.PEM), 0o644)
    return Issued(cert, key, (f"{name} CA",), made.not_valid_after_utc)


def issue_server(
    folder: str | os.PathLike[str], names: Sequence[str], *, file: str | None = None, days: int = DAYS
) -> Issued:
    """Make a certificate for a service that is reached by ``names`` (hosts and addresses), signed by the folder's CA.

    It also serves as client certificate, because services are clients of each other.  Files are called ``file``, the
    first name if None.  Called again it renews: new certificate, new key, same files.

    Raises ConfigError: no names, one that is no host or address, or no CA in the folder.
    """
    if not names:
        raise ConfigError("a server's certificate needs the names and addresses that it is reached by, and none came")
    alternatives = x509.SubjectAlternativeName([_general(name) for name in names])
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return _issue(
        Path(folder), file or names[0].replace("*", "any").replace(":", "-"), names, alternatives, usages, days
    )


def issue_client(folder: str | os.PathLike[str], name: str, *, days: int = DAYS) -> Issued:
    """Make a certificate with which the client ``name`` shows who it is (mutual TLS); called again it renews.

    Raises ConfigError: a name that is no file name, or no CA in the folder.
    """
    alternatives = x509.SubjectAlternativeName([x509.DNSName(name)]) if _HOST.fullmatch(name) else None
    return _issue(Path(folder), name, (name,), alternatives, [ExtendedKeyUsageOID.CLIENT_AUTH], days)


def describe(cert: str | os.PathLike[str]) -> Issued:
    """Return what the certificate in a file says; ``key`` is the file beside it that belongs to it.

    Raises ConfigError when it is not a certificate.
    """
    path = Path(cert)
    found = _read_cert(path)
    return Issued(path, path.with_suffix(".key"), _names(found), found.not_valid_after_utc)


def _issue(
    folder: Path,
    file: str,
    names: Sequence[str],
    alternatives: x509.SubjectAlternativeName | None,
    usages: Sequence[x509.ObjectIdentifier],
    days: int,
) -> Issued:
    if not _FILE.fullmatch(file) or file == "ca":
        raise ConfigError(f"expected a name of letters, digits and . _ - for the files (not ca), and {file!r} came")
    ca_cert, ca_key = _read_ca(folder)
    own = ec.generate_private_key(ec.SECP256R1())
    until = min(_now() + timedelta(days=days), ca_cert.not_valid_after_utc)
    builder = (
        _builder(_subject(names[0]), ca_cert.subject, own.public_key(), until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    if alternatives is not None:
        builder = builder.add_extension(alternatives, critical=False)
    made = builder.sign(ca_key, hashes.SHA256())
    cert, key = folder / f"{file}.pem", folder / f"{file}.key"
    _write(key, _pem_of(own), 0o600)
    _write(cert, made.public_bytes(serialization.Encoding.PEM), 0o644)
    return Issued(cert, key, tuple(names), made.not_valid_after_utc)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - _SKEW)
        .not_valid_after(until)
    )


def _usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        pass
    if not _HOST.fullmatch(name) or len(name) > 253:
        raise ConfigError(f"expected a host name or an address, without port or https://, and {name!r} came")
    return x509.DNSName(name)


def _names(cert: x509.Certificate) -> tuple[str, ...]:
    try:
        found = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return tuple(str(each.value) for each in cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME))
    return tuple(str(each.value) for each in found)


def _read_ca(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    cert, key = folder / "ca.pem", folder / "ca.key"
    if not cert.exists() or not key.exists():
        raise ConfigError(f"expected a CA (ca.pem and ca.key) in {folder}: make one first")
    found = _read_cert(cert)
    try:
        own = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"expected the key of the CA in {key}, without a passphrase, and it cannot be read"
        ) from error
    if not isinstance(own, ec.EllipticCurvePrivateKey) or own.public_key() != found.public_key():
        raise ConfigError(f"{key} is not the key of the CA in {cert}")
    if found.not_valid_after_utc <= _now():
        raise ConfigError(f"the CA in {cert} ended on {found.not_valid_after_utc:%Y-%m-%d}: make a new one elsewhere")
    return found, own


def _read_cert(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"the certificate {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"expected a certificate in PEM form in {path}") from error


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes, mode: int) -> None:
    """Replace the file at once; it never exists with a wider mode."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(part, mode)
        os.replace(part, path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def _now() -> datetime:
    return datetime.now(UTC)
