"""What `cutlayer list` says is what there is."""

from __future__ import annotations

from cutlayer.catalogue import catalogue
from cutlayer.codecs import CODECS
from cutlayer.data import SCHEMES, SOURCES
from cutlayer.models import MODELS
from cutlayer.models.auxiliary import KINDS
from cutlayer.recipes import RECIPES
from cutlayer.roles.aggregators import AGGREGATORS


def test_every_name_is_listed_once_and_described() -> None:
    tables = {
        "algorithms": RECIPES,
        "models": MODELS,
        "data": SOURCES,
        "partitions": SCHEMES,
        "codecs": CODECS,
        "aggregators": AGGREGATORS,
        "auxiliaries": KINDS,
    }
    found = catalogue()
    assert {title: [row["name"] for row in rows] for title, rows in found.items()} == {
        title: list(table) for title, table in tables.items()
    }
    for rows in found.values():
        assert all(row.keys() == rows[0].keys() and all(row.values()) for row in rows)


def test_labels_are_where_they_are() -> None:
    places = {row["name"]: row["labels at"] for row in catalogue()["algorithms"]}
    assert [places[n] for n in ("centralized", "local", "fedavg")] == ["one place", "client", "client"]
    assert [places[n] for n in ("vanilla", "ushaped", "file_sync", "fsl_sage")] == [
        "server",
        "client",
        "client",
        "server",
    ]
