"""The manifests: right by Kubernetes' schemas, and settings in them are ours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from instgenie.replica.__main__ import serve as replica_options
from instgenie_cache.service.service_settings_sources import load_settings as load_cache_settings
from instgenie_server.settings_sources import load_settings

MANIFESTS = list(yaml.safe_load_all((Path(__file__).parents[2] / "docker/k8s/instgenie.yaml").read_text()))
SECRET = "a secret of more than 16 bytes"


def manifest(kind: str, name: str) -> dict[str, Any]:
    (found,) = [entry for entry in MANIFESTS if (entry["kind"], entry["metadata"]["name"]) == (kind, name)]
    assert isinstance(found, dict)
    return found


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", SECRET) for entry in container["env"]}


@pytest.mark.parametrize("entry", MANIFESTS, ids=lambda entry: f"{entry['kind']}-{entry['metadata']['name']}")
def test_it_follows_the_schema(entry: dict[str, Any]) -> None:
    kubernetes_validate.validate(entry, "1.31", strict=True)


def test_the_schema_refuses_what_is_misspelt() -> None:
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"prots": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.31", strict=True)


def test_the_server_knows_every_pod() -> None:
    (server,) = manifest("Deployment", "instgenie")["spec"]["template"]["spec"]["containers"]
    settings = load_settings(None, {}, environment(server))
    nodes = manifest("StatefulSet", "instgenie-node")["spec"]
    port = nodes["template"]["spec"]["containers"][0]["ports"][0]["containerPort"]
    service = nodes["serviceName"]
    assert settings.engine.replica.split(",") == [
        f"tcp://instgenie-node-{number}.{service}:{port}" for number in range(nodes["replicas"])
    ]
    assert manifest("Service", service)["spec"]["ports"][0]["port"] == port


def test_cache_and_replica_take_their_settings() -> None:
    pod = manifest("StatefulSet", "instgenie-node")["spec"]["template"]["spec"]
    (cache,), (replica,) = pod["initContainers"], pod["containers"]
    settings = load_cache_settings(None, {}, environment(cache))
    variables = environment(replica)
    assert variables["INSTGENIE_REPLICA_CACHE"] == f"unix:{settings.socket}"
    named = {match[1].lower() for name in variables if (match := re.fullmatch("INSTGENIE_REPLICA_(.+)", name))}
    assert named <= replica_options.__annotations__.keys()


def test_kubernetes_sets_no_variables_that_look_like_settings() -> None:
    for kind, name in (("StatefulSet", "instgenie-node"), ("Deployment", "instgenie")):
        assert manifest(kind, name)["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_pods_are_selected_by_their_labels() -> None:
    for kind, name in (("StatefulSet", "instgenie-node"), ("Deployment", "instgenie")):
        spec = manifest(kind, name)["spec"]
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    assert manifest("Service", "instgenie")["spec"]["selector"] == {"app": "instgenie"}
    assert manifest("PodDisruptionBudget", "instgenie-node")["spec"]["selector"]["matchLabels"] == {
        "app": "instgenie-node"
    }
