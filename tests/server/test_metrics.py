"""What Prometheus reads."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from instgenie.balancer.template_map import Warmth
from instgenie.orders import PhaseTimings, ReplicaStats
from instgenie_server.fleet.decision import Decision
from instgenie_server.fleet.standing import Standing
from instgenie_server.jobs.job import JobState
from instgenie_server.metrics import Metrics

TIMINGS = PhaseTimings(
    queue_ms=10,
    encode_ms=20,
    record_ms=0,
    denoise_ms=4000,
    decode_ms=30,
    cache="hit",
    tier="disk",
    steps=4,
    dense_steps=0,
    tokens_active=10,
    tokens_total=100,
)


class Scrape:
    """Values of one exposition."""

    def __init__(self, metrics: Metrics) -> None:
        self.content_type, body = metrics.exposition()
        families = text_string_to_metric_families(body.decode())
        self.values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.values.get((name, frozenset(labels.items())))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def test_exposition_is_prometheus_text(metrics: Metrics) -> None:
    scrape = Scrape(metrics)
    assert scrape.content_type.startswith("text/plain")
    start = scrape("instgenie_start_time_seconds")
    assert start is not None
    assert abs(time.time() - start) < 60


def test_edit(metrics: Metrics) -> None:
    metrics.observe_edit(TIMINGS)
    metrics.observe_edit(replace(TIMINGS, cache="cold", tier=None, record_ms=500))
    metrics.count_edit_failure("cancelled")
    metrics.observe_step(0.75)
    metrics.observe_step(1.25)
    scrape = Scrape(metrics)
    assert scrape("instgenie_edits_total", outcome="done", cache="hit", tier="disk") == 1
    assert scrape("instgenie_edits_total", outcome="done", cache="cold", tier="none") == 1
    assert scrape("instgenie_edits_total", outcome="cancelled", cache="none", tier="none") == 1
    sums = {"queue": 0.02, "encode": 0.04, "record": 0.5, "denoise": 8.0, "decode": 0.06}
    for phase, expected in sums.items():
        assert scrape("instgenie_phase_seconds_sum", phase=phase) == pytest.approx(expected)
        assert scrape("instgenie_phase_seconds_count", phase=phase) == 2
    assert scrape("instgenie_step_seconds_sum") == 2.0
    assert scrape("instgenie_step_seconds_bucket", le="0.5") == 0
    assert scrape("instgenie_step_seconds_bucket", le="1.0") == 1
    assert scrape("instgenie_tokens_active_share_sum") == pytest.approx(0.2)


def test_an_edit_in_a_batch(metrics: Metrics) -> None:
    metrics.observe_edit(replace(TIMINGS, batch=3.5, stall_ms=250))
    metrics.observe_edit(TIMINGS)
    scrape = Scrape(metrics)
    assert scrape("instgenie_batch_edits_sum") == 4.5
    assert scrape("instgenie_batch_edits_bucket", le="1.0") == 1
    assert scrape("instgenie_stall_seconds_sum") == 0.25


STATS = ReplicaStats(
    waiting=5,
    running=4,
    finishing=1,
    lanes=2,
    tokens=900,
    steps=10,
    edit_steps=25,
    busy_seconds=2.5,
    stall_seconds=0.5,
    done=3,
    failed=1,
    cancelled=2,
    expired=4,
)


def test_replicas(metrics: Metrics) -> None:
    metrics.set_replicas(
        [Standing("1", "ready", STATS), Standing("2", "draining", ReplicaStats(running=1), restarts=3, renewals=2)]
    )
    scrape = Scrape(metrics)
    phases = ("waiting", "running", "finishing")
    edits = [scrape("instgenie_replica_edits", replica="1", phase=phase) for phase in phases]
    assert edits == [5, 4, 1]
    ends = ("done", "failed", "cancelled", "expired")
    assert [scrape("instgenie_replica_ends_total", replica="1", end=end) for end in ends] == [3, 1, 2, 4]
    names = ("up", "lanes", "step_tokens", "steps_total", "edit_steps_total", "busy_seconds_total")
    assert [scrape(f"instgenie_replica_{name}", replica="1") for name in names] == [1, 2, 900, 10, 25, 2.5]
    assert scrape("instgenie_replica_stall_seconds_total", replica="1") == 0.5
    assert [scrape("instgenie_replica_restarts", replica=replica) for replica in "12"] == [0, 3]
    assert [scrape("instgenie_replica_renewals", replica=replica) for replica in "12"] == [0, 2]
    assert scrape("instgenie_replica_up", replica="2") == 0
    assert scrape("instgenie_replica_edits", replica="2", phase="running") == 1


def test_counts_go_on_where_another_process_begins_anew(metrics: Metrics) -> None:
    metrics.set_replicas([Standing("1", "ready", STATS)])
    metrics.set_replicas([Standing("1", "ready", replace(STATS, steps=12, edit_steps=30, done=4))])
    metrics.set_replicas([Standing("1", "gone")])
    scrape = Scrape(metrics)
    assert scrape("instgenie_replica_up", replica="1") == 0
    assert scrape("instgenie_replica_edits", replica="1", phase="running") == 0
    assert scrape("instgenie_replica_steps_total", replica="1") == 12
    metrics.set_replicas([Standing("1", "ready", ReplicaStats(steps=3, edit_steps=3, busy_seconds=1, done=1), 1)])
    scrape = Scrape(metrics)
    names = ("steps_total", "edit_steps_total", "busy_seconds_total", "restarts", "up")
    assert [scrape(f"instgenie_replica_{name}", replica="1") for name in names] == [15, 33, 3.5, 1, 1]
    assert scrape("instgenie_replica_ends_total", replica="1", end="done") == 5


def test_decisions(metrics: Metrics) -> None:
    metrics.observe_decision(Decision("finish_time", "2", Warmth.COLD, 0.0004))
    metrics.observe_decision(Decision("finish_time", "2", Warmth.HOST, 0.002))
    scrape = Scrape(metrics)
    assert scrape("instgenie_balancer_decision_seconds_count", policy="finish_time") == 2
    assert scrape("instgenie_balancer_decision_seconds_bucket", policy="finish_time", le="0.001") == 1
    sent = [scrape("instgenie_balancer_edits_total", replica="2", warmth=warmth) for warmth in ("cold", "host", "disk")]
    assert sent == [1, 1, None]


def test_edit_without_steps(metrics: Metrics) -> None:
    metrics.observe_edit(replace(TIMINGS, steps=0, tokens_total=0, tokens_active=0))
    scrape = Scrape(metrics)
    assert scrape("instgenie_tokens_active_share_count") == 0


def test_buckets_reach_from_a_millisecond_to_two_minutes(metrics: Metrics) -> None:
    metrics.observe_request("/", "GET", 200, 100)
    scrape = Scrape(metrics)
    assert scrape("instgenie_http_request_seconds_bucket", route="/", le="0.001") == 0
    assert scrape("instgenie_http_request_seconds_bucket", route="/", le="60.0") == 0
    assert scrape("instgenie_http_request_seconds_bucket", route="/", le="120.0") == 1


def test_made_up_methods_are_one_label(metrics: Metrics) -> None:
    for number in range(10):
        metrics.observe_request("unmatched", f"M{number}", 405, 0.1)
    assert Scrape(metrics)("instgenie_http_requests_total", route="unmatched", method="other", status="405") == 10


def test_queue_and_jobs(metrics: Metrics) -> None:
    metrics.set_queue_seconds(12.5)
    metrics.set_jobs({"queued": 3, "done": 5})
    metrics.set_jobs({"queued": 2})
    scrape = Scrape(metrics)
    assert scrape("instgenie_queue_seconds") == 12.5
    assert {state: scrape("instgenie_jobs", state=state) for state in JobState} == {
        **dict.fromkeys(JobState, 0),
        JobState.QUEUED: 2,
    }


def test_uploads_and_rejections(metrics: Metrics) -> None:
    metrics.observe_upload(250_000)
    metrics.count_rejected("overloaded")
    metrics.set_in_flight(2)
    scrape = Scrape(metrics)
    assert scrape("instgenie_upload_bytes_sum") == 250_000
    assert scrape("instgenie_rejected_total", reason="overloaded") == 1
    assert scrape("instgenie_http_in_flight") == 2


def test_servers_do_not_share_figures(metrics: Metrics) -> None:
    metrics.set_queue_seconds(1)
    assert Scrape(Metrics())("instgenie_queue_seconds") == 0
