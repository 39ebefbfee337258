"""The picture of the system: everybody is in it once, and nobody stands on anybody."""

from __future__ import annotations

from typing import Any

import pytest

from cutlayer.services.dashboard.charts import topology
from cutlayer.services.dashboard.charts.topology import Node, Picture
from services.dashboard import figures


def clients(count: int) -> list[dict[str, Any]]:
    return [{"name": f"hospital-{n}", "connected": n != 1} for n in range(count)]


def drawn(system: dict[str, Any], found: list[dict[str, Any]]) -> list[Picture]:
    return [topology.wide(system, found), topology.narrow(system, found)]


def apart(one: Node, other: Node) -> bool:
    beside = one.x + one.w <= other.x or other.x + other.w <= one.x
    return beside or one.y + one.h <= other.y or other.y + other.h <= one.y


@pytest.mark.parametrize("servers", [0, 1, 2, 7])
@pytest.mark.parametrize("count", [0, 3, 12, 500])
def test_boxes_are_inside_and_apart(servers: int, count: int) -> None:
    system = figures.system(
        services=[figures.server(f"split-{n}") for n in range(servers)],
        clients={"connected": count, "total": count},
    )
    for picture in drawn(system, clients(count) if count <= topology.NAMED else []):
        assert len({node.id for node in picture.nodes}) == len(picture.nodes) == servers + 4
        for n, node in enumerate(picture.nodes):
            assert node.x >= 0
            assert node.x + node.w <= picture.width
            assert node.y + node.h <= picture.height
            assert all(apart(node, other) for other in picture.nodes[:n])
            assert all(node.y < lamp.y < node.y + node.h for lamp in node.lamps)


def test_a_silent_server_is_dark_and_its_edges_with_it() -> None:
    system = figures.system()
    system["services"][1] |= {"live": False, "silent": 4.2}
    for picture in drawn(system, clients(3)):
        dark = [node for node in picture.nodes if not node.live]
        assert [node.name for node in dark] == ["split-2"]
        assert dark[0].lines[-1] == "silent for 4 s"
        assert {edge.id for edge in picture.edges if edge.dark} == {"clients-split:split-2", "split:split-2-store"}
    assert topology.silence(system) == ("Silent: split server split-2 (others answer).", "warn")


def test_the_last_of_its_kind_is_worse() -> None:
    system = figures.system(services=[figures.server("split-1", live=False), figures.server("fed", kind="fed")])
    said, mood = topology.silence(system)
    assert "waits until it is back" in said
    assert mood == "bad"
    assert topology.silence(figures.system()) == ("", "")


def test_traffic_is_on_the_edge() -> None:
    picture = topology.wide(figures.system(), [])
    edges = {edge.id: edge for edge in picture.edges}
    assert edges["clients-split:split-1"].label == "3.00 KiB/s"
    assert edges["clients-split:split-1"].flows
    assert not edges["clients-fed:fed"].flows
    assert topology.thickness(1e6) > topology.thickness(1e3) > topology.thickness(0)


def test_clients_are_named_while_they_are_few() -> None:
    few = topology.wide(figures.system(), clients(3)).nodes[0]
    assert [(lamp.name, lamp.live) for lamp in few.lamps] == [
        ("hospital-0", True), ("hospital-1", False), ("hospital-2", True)
    ]  # fmt: skip
    many = figures.system(clients={"connected": 480, "total": 500})
    node = topology.wide(many, []).nodes[0]
    assert node.lamps == ()
    assert node.lines == ("480 of 500 connected",)


def test_a_backend_that_is_away_is_dark() -> None:
    found = topology.pictures(figures.system(), [], away=True)
    (backend,) = [node for node in found["wide"]["nodes"] if node["id"] == "backend"]
    assert not backend["live"]
    assert backend["lines"][-1] == "does not answer"
