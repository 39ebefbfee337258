"""Every service shows the same names, each in its own registry."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cutlayer.services.metrics import Metrics
from cutlayer.version import __version__


def families(metrics: Metrics) -> dict[str, str]:
    return {each.name: each.type for each in text_string_to_metric_families(metrics.text().decode())}


def test_the_names_are_those_that_dashboards_and_autoscalers_read() -> None:
    found = families(Metrics.make("split"))
    expected = {
        "cutlayer_step_seconds": "histogram",
        "cutlayer_message_bytes": "counter",
        "cutlayer_queue_depth": "gauge",
        "cutlayer_graph_cache_hits": "counter",
        "cutlayer_graph_cache_misses": "counter",
        "cutlayer_ledger_bytes": "gauge",
        "cutlayer_round_seconds": "histogram",
        "cutlayer_requests": "counter",
        "cutlayer_request_seconds": "histogram",
        "cutlayer_build_info": "gauge",
    }
    assert expected.items() <= found.items()
    others = {name for name in found if not name.startswith("process_") and not name.endswith("_created")}
    assert others == set(expected)


def test_two_services_in_one_process_do_not_mix() -> None:
    first, second = Metrics.make("split"), Metrics.make("fed")
    first.message_bytes.labels("in", "activations").inc(10)
    labels = {"direction": "in", "kind": "activations"}
    assert first.registry.get_sample_value("cutlayer_message_bytes_total", labels) == 10
    assert second.registry.get_sample_value("cutlayer_message_bytes_total", labels) is None
    assert second.registry.get_sample_value("cutlayer_build_info", {"version": __version__, "service": "fed"}) == 1


def test_a_step_is_measured_also_when_it_fails() -> None:
    metrics = Metrics.make("split")
    with metrics.step("forward"):
        pass
    with pytest.raises(ValueError, match="no"), metrics.step("forward"):
        raise ValueError("no")
    assert metrics.registry.get_sample_value("cutlayer_step_seconds_count", {"kind": "forward"}) == 2
