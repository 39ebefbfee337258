"""Settings come from arguments, then the environment, then defaults; what is wrong is named and secrets are not."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from cutlayer.errors import ConfigError
from cutlayer.services.secrets import read_or_make, read_secret, store_credentials_from_files, write_secret
from cutlayer.services.settings import (
    BackendSettings,
    ClientSettings,
    FedSettings,
    ServerSettings,
    Settings,
    SplitSettings,
    check_bind,
    check_url,
)

KINDS = [BackendSettings, SplitSettings, FedSettings, ClientSettings]


@pytest.mark.parametrize("kind", KINDS)
def test_everything_has_a_default_that_is_safe(kind: type[Settings]) -> None:
    settings = kind.read({})
    settings.check()  # type: ignore[attr-defined]
    assert not settings.insecure
    assert getattr(settings, "host", "127.0.0.1") == "127.0.0.1"


def test_arguments_win_over_the_environment_and_that_over_defaults() -> None:
    environ = {"CUTLAYER_PORT": "1234", "CUTLAYER_HOST": "::1", "CUTLAYER_INSECURE": "true", "CUTLAYER_GRACE": ""}
    settings = SplitSettings.read(environ, port=99, host=None)
    assert (settings.port, settings.host, settings.insecure, settings.grace) == (99, "::1", True, 20.0)


def test_lists_and_mappings_in_the_environment() -> None:
    client = ClientSettings.read({"CUTLAYER_ALLOW": "ours.models, ours.data", "CUTLAYER_LABELS": "site=a, gpu=no"})
    assert client.allow == ("ours.models", "ours.data")
    assert client.labels == {"site": "a", "gpu": "no"}
    assert BackendSettings.read({"CUTLAYER_SPLIT_URLS": "https://a,https://b"}).split_urls == ("https://a", "https://b")


@pytest.mark.parametrize(
    ("environ", "given", "said"),
    [
        ({"CUTLAYER_PORT": "many"}, {}, "CUTLAYER_PORT: .*'many'"),
        ({}, {"port": -1}, "--port: .*-1"),
        ({"CUTLAYER_LOG_LEVEL": "loud"}, {}, "CUTLAYER_LOG_LEVEL: .*'debug'"),
        ({}, {"body_limit": 0}, "--body-limit"),
        ({}, {"colour": "red"}, "colour is no setting"),
        ({"CUTLAYER_TLS_CERT": "a.pem"}, {}, "tls_key"),
        ({}, {"tls_client_ca": "ca.pem"}, "mutual TLS needs"),
    ],
)
def test_what_is_wrong_is_named(environ: dict[str, str], given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        BackendSettings.read(environ, **given)


def test_secrets_are_never_shown() -> None:
    settings = BackendSettings.read({"CUTLAYER_SECRET": "hunter2hunter2", "CUTLAYER_OPERATOR_TOKEN": "cl_op_abcdefgh"})
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert "abcdefgh" not in f"{settings!r}"
    with pytest.raises(ConfigError) as error:
        BackendSettings.read({}, secret=["hunter2"])
    assert "hunter2" not in str(error.value)


def test_a_secret_is_read_from_itself_or_its_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("cl_svc_abc\n")
    assert SplitSettings.read({}, token="cl_svc_x").service_token() == "cl_svc_x"
    assert SplitSettings.read({"CUTLAYER_TOKEN_FILE": str(path)}).service_token() == "cl_svc_abc"
    with pytest.raises(ConfigError, match=r"--token-file.*CUTLAYER_TOKEN_FILE"):
        SplitSettings.read({}).service_token()
    path.write_text(" \n")
    with pytest.raises(ConfigError, match="empty"):
        ClientSettings.read({}, token_file=path).enrol_token()
    with pytest.raises(ConfigError, match="cannot be read"):
        ClientSettings.read({}, token_file=tmp_path / "none").enrol_token()
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not text"):
        ClientSettings.read({}, token_file=path).enrol_token()


def test_the_backend_makes_the_secret_and_the_others_find_it(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with pytest.raises(ConfigError, match="the same that the backend has"):
        SplitSettings.read({}, folder=folder).signing_secret()
    made = BackendSettings.read({}, folder=folder).signing_secret()
    assert len(made) >= 64
    assert BackendSettings.read({}, folder=folder).signing_secret() == made
    assert FedSettings.read({}, folder=folder).signing_secret() == made
    assert stat.S_IMODE((folder / "secret").stat().st_mode) == 0o600


def test_a_secret_file_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    assert write_secret(path, "first")
    assert not write_secret(path, "second")
    assert read_secret(path, "it") == read_or_make(path, "it") == "first"
    assert [each.name for each in tmp_path.iterdir()] == ["secret"]
    with pytest.raises(ConfigError, match="cannot be written"):
        write_secret(path / "below", "x")


def test_the_first_tokens(tmp_path: Path) -> None:
    assert BackendSettings.read({}).first_tokens() == {}
    (tmp_path / "op").write_text("cl_op_abc")
    settings = BackendSettings.read({"CUTLAYER_OPERATOR_TOKEN_FILE": str(tmp_path / "op")}, enrol_token="cl_enrol_x")
    assert settings.first_tokens() == {"operator": "cl_op_abc", "enrol": "cl_enrol_x"}


def test_the_databases_password_goes_into_its_url(tmp_path: Path) -> None:
    assert BackendSettings.read({}, folder=tmp_path).database_url == f"sqlite+aiosqlite:///{tmp_path}/cutlayer.db"
    url = "postgresql+asyncpg://cutlayer@db:5432/cutlayer?ssl=require"
    (tmp_path / "password").write_text("a/b@c:d\n")
    settings = BackendSettings.read({}, database=url, database_password_file=tmp_path / "password")
    assert settings.database_url == "postgresql+asyncpg://cutlayer:a%2Fb%40c%3Ad@db:5432/cutlayer?ssl=require"
    assert BackendSettings.read({}, database=url).database_url == url
    nobody = BackendSettings.read({}, database="postgresql+asyncpg://db/cutlayer", database_password="x")
    with pytest.raises(ConfigError, match="name the user"):
        _ = nobody.database_url


def test_store_and_artifacts_are_in_the_folder_unless_they_are_named(tmp_path: Path) -> None:
    assert SplitSettings.read({}, folder=tmp_path).store_url == str(tmp_path / "store")
    assert SplitSettings.read({"CUTLAYER_STORE": "s3://bucket/x"}).store_url == "s3://bucket/x"
    assert BackendSettings.read({}, folder=tmp_path).artifacts_folder == tmp_path / "artifacts"


def test_credentials_of_the_store_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from the file\n")
    environ = {
        "AWS_SECRET_ACCESS_KEY_FILE": str(tmp_path / "key"),
        "AWS_ACCESS_KEY_ID_FILE": str(tmp_path / "key"),
        "AWS_ACCESS_KEY_ID": "set already",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token",
    }
    store_credentials_from_files(environ)
    assert environ["AWS_SECRET_ACCESS_KEY"] == "from the file"
    assert environ["AWS_ACCESS_KEY_ID"] == "set already"
    assert "AWS_WEB_IDENTITY_TOKEN" not in environ
    with pytest.raises(ConfigError, match="AWS_SESSION_TOKEN"):
        store_credentials_from_files({"AWS_SESSION_TOKEN_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST"])
def test_loopback_needs_no_tls(host: str) -> None:
    check_bind(host, tls=False, insecure=False)
    shown = f"[{host}]" if ":" in host else host
    assert check_url(f"http://{shown}:80/", insecure=False) == f"http://{shown}:80"


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "10.0.0.1", "backend", "localhost.example.org", "::ffff:10.0.0.1"]
)
def test_everything_else_does(host: str) -> None:
    with pytest.raises(ConfigError, match="--insecure"):
        check_bind(host, tls=False, insecure=False)
    check_bind(host, tls=True, insecure=False)
    check_bind(host, tls=False, insecure=True)
    if host:
        shown = f"[{host}]" if ":" in host else host
        with pytest.raises(ConfigError, match="--insecure"):
            check_url(f"http://{shown}", insecure=False)
        assert check_url(f"http://{shown}", insecure=True)
        assert check_url(f"https://{shown}", insecure=False)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "backend:7400",
        "ftp://a",
        "https://",
        "https://u:p@a",
        "https://a?x=1",
        "https://a#b",
        "https://a:x",
        "https://[::1",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        check_url(url, insecure=True)


def test_settings_that_would_send_secrets_in_the_clear_are_refused() -> None:
    for settings in (
        ServerSettings(host="0.0.0.0"),
        ServerSettings(public_url="http://split.example"),
        SplitSettings(backend="http://backend:7400"),
        ClientSettings(server="http://backend:7400"),
    ):
        with pytest.raises(ConfigError, match="insecure"):
            settings.check()
        settings.model_copy(update={"insecure": True}).check()
