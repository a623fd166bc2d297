"""Alert rules and the dashboard: right by promtool, where it is installed, and of metrics that there are."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from compose.metric_names import families, metrics_named_in
from instgenie_cache.wire.address import Address
from instgenie_server.metrics import Metrics
from instgenie_server.record_cache import exposition
from instgenie_server.record_cache.exposition import ServiceExposition
from tests.cache.processes.cache_process import CacheProcess

DOCKER = Path(__file__).parents[2] / "docker"
ALERTS = DOCKER / "prometheus/alerts.yml"
DASHBOARD = DOCKER / "grafana/dashboards/instgenie.json"
README = DOCKER / "README.md"

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")


def queries_of_dashboard() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


@pytest.fixture(scope="module")
def metric_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Of a server and its cache service."""

    async def of_service(socket: Path) -> str:
        asked = ServiceExposition(Address(path=str(socket)))
        try:
            return (await asked.text()).decode()
        finally:
            await asked.close()

    with CacheProcess(tmp_path_factory.mktemp("records")) as service, pytest.MonkeyPatch.context() as patch:
        patch.setattr(exposition, "DEADLINE_SECONDS", 30.0)  # on a busy machine
        text = asyncio.run(of_service(service.socket))
    _, body = Metrics().exposition()
    return families(body.decode()).keys() | families(text).keys()


@pytest.mark.parametrize("file", [ALERTS, DASHBOARD], ids=lambda file: str(file.name))
def test_only_metrics_that_are_there_are_named(file: Path, metric_names: set[str]) -> None:
    named = metrics_named_in(file.read_text())
    assert named
    assert named <= metric_names


def test_a_metric_that_is_not_there_is_found(metric_names: set[str]) -> None:
    named = metrics_named_in("rate(instgenie_replica_steps[5m]) / instgenie_queue_seconds")  # without _total
    assert named - metric_names == {"instgenie_replica_steps"}


def test_the_readme_has_a_word_on_every_alert() -> None:
    alerts = {rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}
    explained = set(re.findall(r"^\| `(\w+)`", README.read_text(), re.MULTILINE))
    assert alerts <= explained


@needs_promtool
def test_alerts_fire_when_they_should() -> None:
    subprocess.run(["promtool", "test", "rules", "alerts_test.yml"], cwd=ALERTS.parent, check=True, timeout=60)


def test_every_alert_is_tested() -> None:
    tests = yaml.safe_load((ALERTS.parent / "alerts_test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    alerts = {rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}
    assert fired == alerts


@needs_promtool
def test_queries_of_the_dashboard_are_queries(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{n}", "expr": query} for n, query in enumerate(queries_of_dashboard())]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    subprocess.run(["promtool", "check", "rules", str(file)], check=True, timeout=60)


@needs_promtool
def test_the_scrape_file_is_one() -> None:
    command = ["promtool", "check", "config", "--syntax-only", "prometheus.yml"]
    subprocess.run(command, cwd=ALERTS.parent, check=True, timeout=60)
