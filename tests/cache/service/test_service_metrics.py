"""What is counted, by tier, policy, operation and outcome."""

from __future__ import annotations

import urllib.request

from instgenie_cache.service.service_metrics import ServiceMetrics


def test_what_the_store_tells_is_counted_by_tier() -> None:
    metrics = ServiceMetrics({"host": "gdsf", "disk": "lru"})
    metrics.hit("disk")
    metrics.miss()
    metrics.loaded("disk", 1000, 0.01)
    metrics.written("disk", 2000, 0.02)
    metrics.evicted("host", 3)
    metrics.evicted("disk", 1)
    metrics.corrupt("disk")
    metrics.failed("object")
    lines = metrics.generate().decode().splitlines()
    for line in (
        'instgenie_cache_hits_total{tier="disk"} 1.0',
        "instgenie_cache_misses_total 1.0",
        'instgenie_cache_loaded_bytes_total{tier="disk"} 1000.0',
        'instgenie_cache_load_seconds_count{tier="disk"} 1.0',
        'instgenie_cache_written_bytes_total{tier="disk"} 2000.0',
        'instgenie_cache_evicted_total{policy="gdsf",tier="host"} 3.0',
        'instgenie_cache_evicted_total{policy="lru",tier="disk"} 1.0',
        'instgenie_cache_corrupt_records_total{tier="disk"} 1.0',
        'instgenie_cache_tier_failures_total{tier="object"} 1.0',
    ):
        assert line in lines


def test_operations_that_do_not_exist_share_a_label() -> None:
    metrics = ServiceMetrics()
    for number in range(100):
        metrics.answered(f"op{number}", "protocol", 0.001)
    assert 'instgenie_cache_requests_total{op="unknown",outcome="protocol"} 100.0' in metrics.generate().decode()


def test_gauges_are_read_when_they_are_asked_for() -> None:
    metrics = ServiceMetrics()
    fill = [1.0]
    metrics.watch("fill_bytes", "For this test.", lambda: fill[0])
    fill[0] = 2.0
    assert "instgenie_cache_fill_bytes 2.0" in metrics.generate().decode()


def test_they_are_served_over_http() -> None:
    metrics = ServiceMetrics()
    metrics.connected()
    port, close = metrics.serve(0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            assert b"instgenie_cache_connections 1.0" in response.read()
    finally:
        close()
