"""Settings of the services: arguments first, then ``CUTLAYER_*`` variables, then defaults.

The field ``tls_cert`` is the flag ``--tls-cert`` and the variable ``CUTLAYER_TLS_CERT``.  Lists are separated by
commas, mappings are ``key=value,key=value``.  A secret has two fields, itself and ``<name>_file``, because a file is
not seen in a list of processes or in the description of a container.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_origin
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from cutlayer.errors import ConfigError
from cutlayer.services.addresses import check_bind, check_url, is_loopback
from cutlayer.services.secrets import read_or_make, read_secret

__all__ = [
    "PREFIX",
    "BackendSettings",
    "ClientSettings",
    "FedSettings",
    "ServerSettings",
    "Settings",
    "SplitSettings",
    "WorkerSettings",
    "check_bind",
    "check_url",
    "is_loopback",
]

PREFIX = "CUTLAYER_"

MiB = 1 << 20
GiB = 1 << 30


class Settings(BaseModel):
    """What every process has: where its files are, whom it trusts, how it logs."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    folder: Path = Path(".cutlayer")
    """Where everything is kept that has no place of its own."""
    ca: Path | None = None
    """Certificates that the other side must be signed by; the system's if none."""
    insecure: bool = False
    """Speak without TLS to and from other machines."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"
    trace: str | None = None
    """Where traces go: an OTLP endpoint (needs the extra `otel`)."""

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None, /, **given: Any) -> Self:
        """Return the settings from ``given`` (None: not given), then ``environ`` (the process's if None).

        Raises ConfigError that names the flag or variable, what was expected and what came; never a secret's value.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        for name, field in cls.model_fields.items():
            text = environ.get(PREFIX + name.upper(), "")
            if name not in values and text:
                values[name] = _parsed(text, field.annotation)
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigError(_sentence(error, given)) from None

    def _secret(self, name: str, what: str) -> str:
        """Return the secret ``name``, itself or from its file.  Raises ConfigError when it is not given."""
        value: SecretStr | None = getattr(self, name)
        if value is not None:
            return value.get_secret_value()
        path: Path | None = getattr(self, f"{name}_file")
        if path is not None:
            return read_secret(path, what)
        flag = name.replace("_", "-")
        raise ConfigError(f"expected {what}: give --{flag}-file, or set {PREFIX}{name.upper()}_FILE")


class ServerSettings(Settings):
    """What every process has that listens."""

    host: str = "127.0.0.1"
    port: int = Field(0, ge=0, le=65535)
    """0: any free one; `announce` says which."""
    public_url: str | None = None
    """How clients reach this service, if not by its host and port (a proxy, a load balancer)."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    """Mutual TLS: whoever connects must show a certificate signed by it."""
    announce: Path | None = None
    """A file in which this process says, once it listens, where: {"pid", "host", "port", "url"}."""
    grace: float = Field(20.0, ge=0)
    """Seconds that requests in flight have to end after SIGTERM."""
    rate: float = Field(100.0, ge=0)
    """Requests per second and token, on the average; 0: no limit."""
    burst: int = Field(400, ge=1)
    """Requests that may come at once."""
    body_limit: int = Field(MiB, ge=1)
    """Bytes of a request's body."""
    proxies: tuple[str, ...] = ()
    """Addresses of proxies whose X-Forwarded-For and -Proto are believed."""

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key: give both, or none")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca: mutual TLS needs tls_cert and tls_key too")
        return self

    @property
    def tls(self) -> bool:
        return self.tls_cert is not None

    def check(self) -> None:
        """Raise ConfigError when these settings would send secrets in the clear."""
        check_bind(self.host, self.tls, self.insecure)
        if self.public_url is not None:
            check_url(self.public_url, self.insecure, "public_url")


class BackendSettings(ServerSettings):
    """The backend: a database, artifacts, the first tokens, and where clients find the others."""

    port: int = Field(7400, ge=0, le=65535)
    database: str | None = None
    """SQLAlchemy's URL, ``sqlite+aiosqlite:///file`` or ``postgresql+asyncpg://user@host/name``."""
    database_password: SecretStr | None = None
    database_password_file: Path | None = None
    artifacts: Path | None = None
    secret: SecretStr | None = None
    secret_file: Path | None = None
    operator_token: SecretStr | None = None
    operator_token_file: Path | None = None
    service_token: SecretStr | None = None
    service_token_file: Path | None = None
    enrol_token: SecretStr | None = None
    enrol_token_file: Path | None = None
    split_urls: tuple[str, ...] = ()
    """What clients are told to use as split servers; if empty, what the split servers announce."""
    fed_urls: tuple[str, ...] = ()
    artifact_limit: int = Field(4 * GiB, ge=1)
    lease_seconds: float = Field(60.0, gt=0)
    lost_after: float = Field(90.0, gt=0)
    """Seconds without a sign of life after which a client is not connected."""

    @property
    def database_url(self) -> str:
        """The database's URL, with the password from its file or variable; a file in `folder` by default."""
        if self.database is None:
            return f"sqlite+aiosqlite:///{(self.folder / 'cutlayer.db').absolute()}"
        if self.database_password is None and self.database_password_file is None:
            return self.database
        parts = urlsplit(self.database)
        if not parts.username:
            raise ConfigError("the database's URL must name the user that the password is for: //user@host/name")
        password = quote(self._secret("database_password", "the database's password"), safe="")
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{parts.username}:{password}@{host}"))

    @property
    def artifacts_folder(self) -> Path:
        return self.artifacts or self.folder / "artifacts"

    def signing_secret(self) -> str:
        """Return the secret that signs tickets; the backend makes it (``<folder>/secret``, 0600) if none is given.

        Raises ConfigError.
        """
        if self.secret is None and self.secret_file is None:
            return read_or_make(self.folder / "secret", "the secret that signs tickets")
        return self._secret("secret", "the secret that signs tickets")

    def first_tokens(self) -> dict[str, str]:
        """Return the tokens that the operator chose, by role: ``operator``, ``service``, ``enrol``.

        Raises ConfigError when a file cannot be read.
        """
        found = {}
        for role in ("operator", "service", "enrol"):
            if getattr(self, f"{role}_token") is not None or getattr(self, f"{role}_token_file") is not None:
                found[role] = self._secret(f"{role}_token", f"the first {role} token")
        return found


class WorkerSettings(ServerSettings):
    """What split and federated server have in common: they work for a backend, on a store."""

    backend: str = "http://127.0.0.1:7400"
    token: SecretStr | None = None
    token_file: Path | None = None
    """The service token."""
    secret: SecretStr | None = None
    secret_file: Path | None = None
    """What the backend signs tickets with."""
    store: str | None = None
    """A folder or a URL that obstore knows, the same for all split and federated servers."""
    sync: bool = False
    """fsync what is put into a folder, so that it survives a power failure too."""
    id: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """The name of this replica; made up if none."""
    device: str = "cpu"
    threads: int | None = Field(None, ge=1)
    data: str = "experiment"
    """The test set of everyone: ``experiment`` (what the experiment names), ``none``, or package.module:function."""
    allow: tuple[str, ...] = ()
    """Modules whose code an experiment may name; what cutlayer brings needs no mention."""
    rate: float = Field(0.0, ge=0)
    body_limit: int = Field(512 * MiB, ge=1)
    tls_client_cert: Path | None = None
    tls_client_key: Path | None = None
    """Mutual TLS: what this service shows to the backend."""

    @property
    def store_url(self) -> str:
        return self.store or str(self.folder / "store")

    def signing_secret(self) -> str:
        """Return the secret that tickets are signed with.  Raises ConfigError."""
        if self.secret is None and self.secret_file is None and (self.folder / "secret").exists():
            return read_secret(self.folder / "secret", "the secret that signs tickets")
        return self._secret("secret", "the secret that signs tickets, the same that the backend has")

    def service_token(self) -> str:
        """Return the token that this service shows to the backend.  Raises ConfigError."""
        return self._secret("token", "a service token (cl_svc_...)")

    def check(self) -> None:
        super().check()
        check_url(self.backend, self.insecure, "the backend's URL")


class SplitSettings(WorkerSettings):
    """A replica of the split server."""

    port: int = Field(7401, ge=0, le=65535)
    graphs: int = Field(64, ge=0)
    """How many recent graphs are kept, so that a backward that comes back needs no second forward."""
    outstanding: int = Field(1000, ge=1)
    """How many requests may wait for the model; more are answered 503, come back."""


class FedSettings(WorkerSettings):
    """The federated server."""

    port: int = Field(7402, ge=0, le=65535)


class DashboardSettings(ServerSettings):
    """The dashboard."""

    port: int = Field(7480, ge=0, le=65535)
    backend: str = "http://127.0.0.1:7400"
    token: SecretStr | None = None
    token_file: Path | None = None
    """A viewer's token: then the page is there for everybody who reaches it, read-only, and nobody signs in."""
    tls_client_cert: Path | None = None
    tls_client_key: Path | None = None

    def viewer_token(self) -> str | None:
        """Return the token of a public page, None where people sign in.  Raises ConfigError."""
        if self.token is None and self.token_file is None:
            return None
        return self._secret("token", "a viewer's token (cl_view_...)")

    def check(self) -> None:
        super().check()
        check_url(self.backend, self.insecure, "the backend's URL")


class ClientSettings(Settings):
    """A client agent: whose clients it is, where its data is, and what code it may run."""

    folder: Path = Path(".cutlayer-client")
    """Where the client keeps its key and its place in a run; one folder per client."""
    server: str = "http://127.0.0.1:7400"
    token: SecretStr | None = None
    token_file: Path | None = None
    """The enrolment token; not needed once the folder holds a key."""
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """The name of this client among all; the machine's if none."""
    data: str = "experiment"
    """``experiment`` (this client's share of what the experiment names) or package.module:function."""
    allow: tuple[str, ...] = ()
    """Modules whose code an experiment may name; what cutlayer brings needs no mention."""
    labels: dict[str, str] = Field(default_factory=dict)
    """What an experiment may require of a client (``clients.require``)."""
    device: str = "cpu"
    threads: int | None = Field(None, ge=1)
    rotate: bool = False
    """Ask another replica with every request, as behind a load balancer without affinity."""
    tls_client_cert: Path | None = None
    tls_client_key: Path | None = None

    def enrol_token(self) -> str:
        """Return the enrolment token.  Raises ConfigError when there is none."""
        return self._secret("token", "an enrolment token (cl_enrol_...)")

    def check(self) -> None:
        """Raise ConfigError when these settings would send secrets in the clear."""
        check_url(self.server, self.insecure, "the server's URL")


def _parsed(text: str, annotation: Any) -> Any:
    """Return a variable's text as its field takes it; pydantic does the rest."""
    if get_origin(annotation) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if get_origin(annotation) is dict:
        pairs = (part.partition("=") for part in text.split(",") if part.strip())
        return {key.strip(): value.strip() for key, _, value in pairs}
    return text


def _sentence(error: ValidationError, given: Mapping[str, Any]) -> str:
    """Return the first thing that is wrong, in words."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = [str(part) for part in first["loc"]]
    reason = first["msg"].removeprefix("Value error, ")
    if not where:
        return reason
    name = where[0]
    from_flag = given.get(name) is not None
    said = f"--{name.replace('_', '-')}" if from_flag else f"{PREFIX}{name.upper()}"
    if first["type"] == "extra_forbidden":
        return f"{name} is no setting of this service"
    came = first.get("input")
    shown = "" if isinstance(came, SecretStr) or "token" in name or "secret" in name else f", and {came!r} came"
    return f"{said}: {reason[0].lower()}{reason[1:]}{shown}"
