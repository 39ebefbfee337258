"""Every manifest is valid, refers to what exists, and gives no process more than it needs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cutlayer.services.metrics import Metrics
from cutlayer.version import __version__

from .kustomize import Manifest, build, containers, identity
from .settings import ROLES, is_command, settings, variables

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
PLACES = [FOLDER / "base", *sorted((FOLDER / "overlays").iterdir())]
VERSIONS = ("1.30", "1.37")
PORTS = {"backend": 7400, "split": 7401, "fed": 7402, "dashboard": 7480}
SECRETS = {
    "cutlayer-secrets": {"secret", "operator-token", "service-token", "database-password"},
    "cutlayer-tls": {"ca.pem", *(f"{role}.{kind}" for role in PORTS for kind in ("pem", "key"))},
    "cutlayer-store": {"access-key-id", "secret-access-key"},
}
"""What whoever deploys brings, as docs/deploy.md says."""


@pytest.fixture(params=PLACES, ids=lambda path: path.name)
def place(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def manifests(place: Path) -> list[Manifest]:
    return build(place)


def named(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    return {each["metadata"]["name"]: each for each in manifests if each["kind"] == kind}


def pods(manifests: list[Manifest]) -> dict[str, dict[str, Any]]:
    return {name: each["spec"]["template"]["spec"] for name, each in named(manifests, "Deployment").items()}


def test_the_overlays_are_these() -> None:
    assert [path.name for path in PLACES] == ["base", "gpu", "s3", "small"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid(manifests: list[Manifest], version: str) -> None:
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_manifest_that_is_not_valid_is_noticed() -> None:
    manifest = build(PLACES[0])[2]
    assert manifest["kind"] == "Deployment"
    manifest["spec"]["template"]["spec"]["containers"][0]["imagePullSometimes"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


def test_every_file_is_used_and_every_name_is_there_once(place: Path, manifests: list[Manifest]) -> None:
    customization = yaml.safe_load((place / "kustomization.yaml").read_text())
    used = {*customization["resources"], *(patch["path"] for patch in customization.get("patches", ()))}
    there = {path.name for path in place.iterdir()} - {"kustomization.yaml"}
    assert there == {name for name in used if not name.startswith("..")}
    names = [identity(each) for each in manifests]
    assert len(names) == len(set(names))
    assert {each["metadata"].get("namespace", "none") for each in manifests if each["kind"] != "Namespace"} == {
        "cutlayer"
    }


def test_selectors_select_their_pods(manifests: list[Manifest]) -> None:
    labels = {name: d["spec"]["template"]["metadata"]["labels"] for name, d in named(manifests, "Deployment").items()}
    assert set(labels) == set(PORTS)
    for name, wanted in _selectors(manifests):
        chosen = {role for role, found in labels.items() if wanted.items() <= found.items()}
        assert chosen == (set(PORTS) if name == "nothing-else" else {name}), (name, chosen)


def _selectors(manifests: list[Manifest]) -> Iterator[tuple[str, dict[str, str]]]:
    for manifest in manifests:
        spec, name = manifest.get("spec", {}), manifest["metadata"]["name"]
        if manifest["kind"] == "Service":
            yield name, spec["selector"]
        elif manifest["kind"] in ("Deployment", "PodDisruptionBudget"):
            yield name, spec["selector"]["matchLabels"]
        elif manifest["kind"] == "NetworkPolicy":
            yield name, spec["podSelector"]["matchLabels"]
            for rule in spec.get("egress", ()):
                for peer in rule.get("to", ()):
                    yield "backend", peer["podSelector"]["matchLabels"]


def test_everything_that_is_referred_to_exists(manifests: list[Manifest]) -> None:
    configs, claims = named(manifests, "ConfigMap"), named(manifests, "PersistentVolumeClaim")
    used_claims = set()
    for role, pod in pods(manifests).items():
        assert pod["serviceAccountName"] in named(manifests, "ServiceAccount")
        (container,) = pod["containers"]
        assert {each["configMapRef"]["name"] for each in container["envFrom"]} <= set(configs)
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        for volume in pod["volumes"]:
            if "secret" in volume:
                items = volume["secret"].get("items", ())
                assert {item["key"] for item in items} <= SECRETS[volume["secret"]["secretName"]]
            elif "persistentVolumeClaim" in volume:
                used_claims.add(volume["persistentVolumeClaim"]["claimName"])
            else:
                assert volume["emptyDir"] == {}
        for path in _files(container):
            assert _provided(path, pod), f"{role} reads {path}"
    assert used_claims == set(claims)


def _files(container: dict[str, Any]) -> list[str]:
    return [e["value"] for e in container["env"] if str(e.get("value", "")).startswith("/run/secrets/")]


def _provided(path: str, pod: dict[str, Any]) -> bool:
    folder, _, name = path.rpartition("/")
    mounts = {mount["mountPath"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    (volume,) = [each for each in pod["volumes"] if each["name"] == mounts[folder]["name"]]
    items = volume["secret"].get("items")
    names = SECRETS[volume["secret"]["secretName"]] if items is None else {item["path"] for item in items}
    return name in names


def test_ports_are_the_same_everywhere(manifests: list[Manifest]) -> None:
    services = named(manifests, "Service")
    policies = named(manifests, "NetworkPolicy")
    for role, port in PORTS.items():
        assert ROLES[role].read({}).port == port
        (container,) = pods(manifests)[role]["containers"]
        assert container["ports"] == [{"name": "https", "containerPort": port}]
        assert services[role]["spec"]["ports"] == [{"name": "https", "port": port, "targetPort": "https"}]
        assert policies[role]["spec"]["ingress"] == [{"ports": [{"port": port}]}]
        annotations = named(manifests, "Deployment")[role]["spec"]["template"]["metadata"]["annotations"]
        assert annotations["prometheus.io/port"] == str(port)


def test_every_variable_is_read_and_the_settings_are_accepted(manifests: list[Manifest]) -> None:
    configs = named(manifests, "ConfigMap")
    for role, pod in pods(manifests).items():
        (container,) = pod["containers"]
        environ: dict[str, str] = {}
        for reference in container["envFrom"]:
            environ.update(configs[reference["configMapRef"]["name"]]["data"])
        environ.update({each["name"]: each.get("value", "split-0") for each in container["env"]})
        assert set(environ) <= variables(role), set(environ) - variables(role)
        found = settings(role, environ)
        assert found.tls
        assert not found.insecure
        assert found.host == "0.0.0.0"
        assert found.grace < pod["terminationGracePeriodSeconds"] - 5


def test_commands_are_commands(manifests: list[Manifest]) -> None:
    assert not is_command(["serve", "nothing"])
    for role, pod in pods(manifests).items():
        (container,) = pod["containers"]
        assert "command" not in container
        assert container["args"] == ["serve", role]
        assert is_command(container["args"])


def test_processes_have_no_rights_that_they_do_not_need(manifests: list[Manifest]) -> None:
    for pod in pods(manifests).values():
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]


def test_only_the_backend_has_the_operators_token_and_the_databases_password(manifests: list[Manifest]) -> None:
    for role in ("split", "fed"):
        (volume,) = [each for each in pods(manifests)[role]["volumes"] if each["name"] == "secrets"]
        assert {item["key"] for item in volume["secret"]["items"]} == {"secret", "service-token"}
    assert {each["name"] for each in pods(manifests)["dashboard"]["volumes"]} == {"tmp", "tls"}


def test_no_secret_stands_in_a_manifest(manifests: list[Manifest]) -> None:
    assert not named(manifests, "Secret")
    text = yaml.safe_dump(manifests)
    assert not re.search(r"cl_(op|view|svc|enrol|key)_|PRIVATE KEY|://[^/\s:]+:[^/\s]+@", text)
    for config in named(manifests, "ConfigMap").values():
        assert not [name for name in config["data"] if re.search(r"TOKEN$|SECRET$|PASSWORD$|ACCESS_KEY", name)]


def test_probes_ask_what_they_should(manifests: list[Manifest]) -> None:
    for pod in pods(manifests).values():
        (container,) = pod["containers"]
        asked = {kind: container[kind]["httpGet"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
        assert {each["path"] for each in asked.values()} == {"/healthz", "/readyz"}
        assert asked["readinessProbe"]["path"] == "/readyz"
        assert {each["scheme"] for each in asked.values()} == {"HTTPS"}


def test_split_servers_scale_on_a_metric_that_they_have(place: Path, manifests: list[Manifest]) -> None:
    scalers = named(manifests, "HorizontalPodAutoscaler")
    if place.name == "small":
        assert not scalers
        return
    spec = scalers["split"]["spec"]
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "split"}
    assert "replicas" not in named(manifests, "Deployment")["split"]["spec"]
    (metric,) = spec["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert f"\n{name} ".encode() in Metrics.make("split").text()


def test_a_budget_never_stops_a_drain_forever(manifests: list[Manifest]) -> None:
    budgets = named(manifests, "PodDisruptionBudget")
    assert set(budgets) == set(PORTS)
    assert all(each["spec"]["maxUnavailable"] == 1 for each in budgets.values())


def test_the_image_is_this_version(manifests: list[Manifest]) -> None:
    images = {container["image"] for each in manifests for container in containers(each)}
    assert images <= {f"cutlayer:{__version__}", f"cutlayer-cuda:{__version__}"}


def test_the_overlays_change_what_they_say() -> None:
    built = {path.name: build(path) for path in PLACES}
    (gpu,) = pods(built["gpu"])["split"]["containers"]
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert gpu["image"].startswith("cutlayer-cuda:")
    workers = named(built["s3"], "ConfigMap")["cutlayer-workers"]["data"]
    assert workers["CUTLAYER_STORE"].startswith("s3://")
    assert "CUTLAYER_BACKEND" in workers
    assert set(named(built["s3"], "PersistentVolumeClaim")) == {"cutlayer-artifacts"}
    small = named(built["small"], "Deployment")
    assert {name: each["spec"].get("replicas") for name, each in small.items()} == {
        "backend": 1,
        "fed": 1,
        "split": 1,
        "dashboard": 1,
    }
    assert small["backend"]["spec"]["strategy"] == {"type": "Recreate"}
    assert named(built["small"], "ConfigMap")["cutlayer-backend"]["data"]["CUTLAYER_DATABASE"].startswith("sqlite")


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
def test_kustomize_itself_builds_the_same(place: Path, manifests: list[Manifest]) -> None:
    done = subprocess.run(["kubectl", "kustomize", str(place)], capture_output=True, text=True, check=True)
    text = re.sub(r"\b(cutlayer-(?:common|backend|workers))-[a-z0-9]{10}\b", r"\1", done.stdout)
    theirs = {identity(each): each for each in yaml.safe_load_all(text)}
    ours = {identity(each): each for each in manifests}
    assert set(theirs) == set(ours)
    for name, manifest in ours.items():
        assert _plain(theirs[name]) == _plain(manifest), name


def _plain(value: Any) -> Any:
    """Return the value with lists of named things in order of their names, which means nothing."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return sorted((_plain(each) for each in value), key=partial(json.dumps, sort_keys=True))
    return value
