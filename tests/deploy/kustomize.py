"""Just enough of kustomize to read the manifests of this repository: resources, generators, merge patches, images.

What it does not know it refuses, so that a manifest cannot rely on something that is not checked.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]
KNOWN = {"apiVersion", "kind", "namespace", "labels", "resources", "configMapGenerator", "patches", "images"}
CLUSTER_WIDE = {"Namespace"}
KEYS = ("name", "mountPath", "containerPort")
"""What tells the items of a list apart when lists are merged."""
MERGED = {"containers", "env", "volumes", "volumeMounts"}
"""Lists that Kubernetes merges by key; all others are replaced."""


def build(folder: Path) -> list[Manifest]:
    """Return the manifests that ``kubectl kustomize folder`` would print, generated names without their hash."""
    customization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(customization) <= KNOWN, set(customization) - KNOWN
    found: list[Manifest] = []
    for name in customization["resources"]:
        path = (folder / name).resolve()
        assert path.exists(), f"{folder.name} names {name}"
        found += build(path) if path.is_dir() else _documents(path)
    for generator in customization.get("configMapGenerator", ()):
        _generate(found, generator)
    for patch in customization.get("patches", ()):
        for each in _documents(folder / patch["path"]):
            _patch(found, each)
    for manifest in found:
        _transform(manifest, customization)
    return found


def identity(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _documents(path: Path) -> list[Manifest]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def _generate(found: list[Manifest], generator: dict[str, Any]) -> None:
    data = dict(literal.split("=", 1) for literal in generator["literals"])
    name = generator["name"]
    if generator.get("behavior") == "merge":
        (before,) = [each for each in found if identity(each) == ("ConfigMap", name)]
        before["data"].update(data)
    else:
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})


def _patch(found: list[Manifest], patch: Manifest) -> None:
    (target,) = [each for each in found if identity(each) == identity(patch)]
    if patch.get("$patch") == "delete":
        found.remove(target)
    else:
        merged = merge(target, patch)
        target.clear()
        target.update(merged)


def merge(before: Any, patch: Any, key: str = "") -> Any:
    """Return the strategic merge of ``patch`` into ``before``."""
    if isinstance(before, dict) and isinstance(patch, dict):
        found = deepcopy(before)
        for name, value in patch.items():
            if value is None:
                found.pop(name, None)
            else:
                found[name] = merge(found.get(name), value, name)
        return found
    if isinstance(before, list) and isinstance(patch, list) and key in MERGED:
        return _merge_lists(before, patch)
    return deepcopy(patch)


def _merge_lists(before: list[Any], patch: list[Any]) -> list[Any]:
    by = next(key for key in reversed(KEYS) if all(key in each for each in patch))
    new = []
    found = deepcopy(before)
    for each in patch:
        at = next((n for n, old in enumerate(found) if old.get(by) == each[by]), None)
        if each.get("$patch") == "delete":
            assert at is not None, f"there is no {each[by]} to delete"
            del found[at]
        elif at is None:
            new.append(deepcopy(each))
        else:
            found[at] = merge(found[at], each)
    return new + found


def _transform(manifest: Manifest, customization: dict[str, Any]) -> None:
    namespace = customization.get("namespace")
    if namespace and manifest["kind"] not in CLUSTER_WIDE:
        manifest["metadata"]["namespace"] = namespace
    for labels in customization.get("labels", ()):
        manifest["metadata"].setdefault("labels", {}).update(labels["pairs"])
        if labels.get("includeTemplates") and manifest["kind"] == "Deployment":
            manifest["spec"]["template"]["metadata"]["labels"].update(labels["pairs"])
    for image in customization.get("images", ()):
        for container in containers(manifest):
            if container["image"].partition(":")[0] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"


def containers(manifest: Manifest) -> list[dict[str, Any]]:
    """Return the containers of a deployment, none for anything else."""
    if manifest["kind"] != "Deployment":
        return []
    found: list[dict[str, Any]] = manifest["spec"]["template"]["spec"]["containers"]
    return found
