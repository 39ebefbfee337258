"""compose.yaml and its overlay: what they start exists, what they hand over is read, and no secret stands in them."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cutlayer.services import certs, tls

from .settings import ROLES, is_command, settings, variables

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "make-secrets.sh"
OURS = {"backend": "backend", "fed": "fed", "split-1": "split", "split-2": "split", "dashboard": "dashboard"}
PINNED = re.compile(r"[\w./-]+:(?!latest)[\w.-]*\d[\w.-]*")


def read(name: str, **environ: str) -> dict[str, Any]:
    """Return the file as compose reads it: ``${NAME:-default}`` filled in, ``$$`` one dollar sign."""

    def filled(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else environ.get(found[1], found[2] or "")

    text = re.sub(r"\$\$|\$\{(\w+)(?::-([^}]*))?\}", filled, (ROOT / name).read_text())
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return read("compose.yaml")


def names(secrets: list[str | dict[str, str]]) -> set[str]:
    return {each if isinstance(each, str) else each["source"] for each in secrets}


def test_the_services_are_these(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"database", "store", "bucket", *OURS}
    assert set(compose) == {key for key in compose if key.startswith("x-")} | {
        "name",
        "services",
        "networks",
        "volumes",
        "secrets",
    }


def test_images_of_others_are_pinned(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if name not in OURS:
            assert PINNED.fullmatch(service["image"]), service["image"]


def test_everything_that_is_named_exists(compose: dict[str, Any]) -> None:
    used: dict[str, set[str]] = {"secrets": set(), "networks": set(), "volumes": set()}
    for service in compose["services"].values():
        used["secrets"] |= names(service.get("secrets", []))
        used["networks"] |= set(service["networks"])
        used["volumes"] |= {volume.partition(":")[0] for volume in service.get("volumes", [])}
        for needed, how in service.get("depends_on", {}).items():
            other = compose["services"][needed]
            assert how["condition"] in ("service_healthy", "service_completed_successfully")
            assert (how["condition"] == "service_healthy") == ("healthcheck" in other)
    for kind, found in used.items():
        assert found == set(compose[kind])


def test_every_file_that_is_read_is_handed_over(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        text = yaml.safe_dump([service.get("environment", {}), service.get("entrypoint", [])])
        assert set(re.findall(r"/run/secrets/(\w+)", text)) == names(service.get("secrets", [])), name


def test_every_variable_is_read_and_the_settings_are_accepted(compose: dict[str, Any]) -> None:
    for name, role in OURS.items():
        environ = compose["services"][name]["environment"]
        assert all(isinstance(value, str) for value in environ.values())
        assert set(environ) <= variables(role), set(environ) - variables(role)
        found = settings(role, environ)
        assert found.tls
        assert not found.insecure
        assert found.public_url is not None
        assert found.public_url.startswith("https://localhost:")


def test_what_clients_are_told_is_what_is_published() -> None:
    compose = read("compose.yaml", CUTLAYER_HOSTNAME="hospital.example", CUTLAYER_BIND="0.0.0.0")
    published = {}
    for name, role in OURS.items():
        (port,) = compose["services"][name]["ports"]
        bind, outside, inside = port.split(":")
        assert bind == "0.0.0.0"
        assert int(inside) == ROLES[role].read({}).port
        published[name] = f"https://hospital.example:{outside}"
        assert compose["services"][name]["environment"]["CUTLAYER_PUBLIC_URL"] == published[name]
    told = compose["services"]["backend"]["environment"]
    assert told["CUTLAYER_SPLIT_URLS"].split(",") == [published["split-1"], published["split-2"]]
    assert told["CUTLAYER_FED_URLS"] == published["fed"]


def test_nothing_is_open_to_the_network_unless_it_is_said(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == len(OURS)
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert compose["networks"]["inside"] == {"internal": True}
    for name in ("database", "store", "bucket"):
        assert compose["services"][name]["networks"] == ["inside"]


def test_commands_are_commands(compose: dict[str, Any]) -> None:
    for name, role in OURS.items():
        assert compose["services"][name]["command"] == ["serve", role]
        assert is_command(["serve", role])


def test_processes_have_no_rights_that_they_do_not_need(compose: dict[str, Any]) -> None:
    for name in OURS:
        service = compose["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service["user"].startswith("0")
        assert "privileged" not in service
        assert "healthcheck" in service
    for name in ("fed", "split-1", "split-2"):
        assert not {"operator_token", "database_password"} & names(compose["services"][name]["secrets"])


@pytest.mark.parametrize(
    "file", ["compose.yaml", "compose.gpu.yaml", "Dockerfile", ".dockerignore", "deploy/make-secrets.sh"]
)
def test_no_secret_stands_in_a_file(file: str) -> None:
    text = (ROOT / file).read_text()
    assert not re.search(r"cl_(op|view|svc|enrol|key)_\w{6,}|PRIVATE KEY|://[^/\s:$]+:[^/\s$]+@", text)
    for name, value in re.findall(r"^\s*(\w*(?:PASSWORD|TOKEN|SECRET|ACCESS_KEY)\w*): (.+)$", text, re.MULTILINE):
        assert name.endswith("_FILE"), name
        assert value.startswith("/run/secrets/")


def test_the_gpu_overlay_changes_split_servers_of_the_base(compose: dict[str, Any]) -> None:
    gpu = read("compose.gpu.yaml")
    assert set(gpu["services"]) == {name for name, role in OURS.items() if role == "split"}
    for name, service in gpu["services"].items():
        environ = compose["services"][name]["environment"] | service["environment"]
        assert settings("split", environ).device == "cuda"  # type: ignore[attr-defined]
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        assert set(service["build"]["args"]) <= set(re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(), re.M))


# --- the script that makes the secrets --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place") / "secrets"
    make(folder)
    return folder


def make(folder: Path) -> None:
    environ = {"PATH": "/usr/bin:/bin", "CUTLAYER": f"{sys.executable} -m cutlayer.cli", "PYTHONPATH": str(ROOT)}
    command = ["sh", str(SCRIPT), str(folder), "hospital.example", "10.0.0.5"]
    subprocess.run(command, env=environ, check=True, capture_output=True)


def test_the_script_makes_every_file_that_compose_reads(made: Path, compose: dict[str, Any]) -> None:
    wanted = {Path(secret["file"]).relative_to("secrets") for secret in compose["secrets"].values()}
    there = {path.relative_to(made) for path in made.rglob("*") if path.is_file()}
    assert there - wanted == {Path("certs/ca.key")}
    assert wanted <= there
    public = [path for path in made.rglob("*") if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert all(path.suffix == ".pem" for path in public)


def test_what_it_makes_is_accepted_and_stays(made: Path) -> None:
    before = {path: path.read_text() for path in made.rglob("*") if path.is_file()}
    environ = {
        "CUTLAYER_SECRET_FILE": str(made / "secret"),
        "CUTLAYER_OPERATOR_TOKEN_FILE": str(made / "operator_token"),
        "CUTLAYER_SERVICE_TOKEN_FILE": str(made / "service_token"),
    }
    backend = ROLES["backend"].read(environ)
    assert len(backend.signing_secret()) >= 43  # type: ignore[attr-defined]
    tokens = backend.first_tokens()  # type: ignore[attr-defined]
    assert re.fullmatch(r"cl_op_[\w-]{43}", tokens["operator"])
    assert re.fullmatch(r"cl_svc_[\w-]{43}", tokens["service"])
    assert len({path.read_text() for path in made.iterdir() if path.is_file()}) == 6
    make(made)
    assert {path: path.read_text() for path in made.rglob("*") if path.is_file()} == before


def test_certificates_are_for_the_service_and_for_where_clients_reach_it(made: Path) -> None:
    for role in ("backend", "split", "fed"):
        found = certs.describe(made / "certs" / f"{role}.pem")
        assert set(found.names) == {role, "hospital.example", "10.0.0.5", "localhost", "127.0.0.1"}
        tls.server_context(found.cert, found.key)


def test_the_script_says_how_it_is_used(tmp_path: Path) -> None:
    done = subprocess.run(["sh", str(SCRIPT), str(tmp_path / "x")], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage" in done.stderr
