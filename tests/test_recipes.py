"""The table of algorithms: what it says, what it refuses, and how others join it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import ConfigError
from cutlayer.recipes import RECIPES, Recipe, get

TABLE = {
    "centralized": (None, "none", None, "whole_model", 1, None, ()),
    "local": (None, "none", None, "whole_model", 1, None, ()),
    "fedavg": (None, "none", None, "whole_model", 1, None, ("encoder", "backbone", "head")),
    "vanilla": ("server", "shared", "batch", "cut_gradient", 1, "relay", ()),
    "ushaped": ("client", "shared", "batch", "cut_gradient", 1, "relay", ()),
    "psl": ("server", "shared", "joined", "cut_gradient", 1, "interleaved", ()),
    "splitfed_v1": ("server", "per_client", "batch", "cut_gradient", 1, "sequential", ("encoder", "backbone")),
    "splitfed_v2": ("server", "shared", "batch", "cut_gradient", 1, "sequential", ("encoder",)),
    "splitfed_v3": ("server", "per_client", "batch", "cut_gradient", 1, "sequential", ("backbone",)),
    "splitfed_u": ("client", "shared", "window", "cut_gradient", 1, "interleaved", ("encoder", "head")),
    "file_sync": ("client", "shared", "window", "cut_gradient", 1, "interleaved", ("encoder", "head")),
    "splitfed_async": ("server", "shared", "window", "cut_gradient", 1, "asynchronous", ("encoder",)),
    "sglr": ("server", "per_client", "batch", "averaged_cut_gradient", 1, "interleaved", ("backbone",)),
    "cse_fsl": ("server", "shared", "batch", "auxiliary", 5, "interleaved", ("encoder", "auxiliary")),
    "fsl_sage": ("server", "shared", "batch", "estimated", 5, "interleaved", ("encoder",)),
}


def test_the_table_has_every_algorithm() -> None:
    assert set(RECIPES) == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_every_recipe_is_its_row_of_the_table(name: str) -> None:
    labels, server, step, feedback, upload, schedule, averaged = TABLE[name]
    recipe = RECIPES[name]
    assert (recipe.server, recipe.feedback, recipe.upload_every, recipe.averaged) == (
        server,
        feedback,
        upload,
        averaged,
    )
    assert labels in (None, recipe.labels)
    assert step in (None, recipe.step)
    assert schedule in (None, recipe.schedule)
    assert recipe.name == name
    assert recipe.source
    assert recipe.summary


def test_who_holds_which_parts() -> None:
    two, three = ("encoder", "backbone"), ("encoder", "backbone", "head")
    assert RECIPES["vanilla"].client_parts(two) == ("encoder",)
    assert RECIPES["ushaped"].client_parts(three) == ("encoder", "head")
    assert RECIPES["cse_fsl"].client_parts(two) == ("encoder", "auxiliary")
    assert RECIPES["fedavg"].client_parts(three) == three


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_found_in_every_form(name: str) -> None:
    recipe = RECIPES[name]
    assert get(name) == recipe
    assert get({"name": name}) == recipe
    assert get(recipe) is recipe


def test_axes_can_be_chosen_differently() -> None:
    found = get({"name": "cse_fsl", "upload_every": 2, "averaged": ["encoder"]})
    assert found.upload_every == 2
    assert found.averaged == ("encoder",)
    assert found.feedback == "auxiliary"
    assert RECIPES["cse_fsl"].upload_every == 5


def test_a_recipe_comes_from_a_file_of_yours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_algorithms.py").write_text(
        "from cutlayer import Recipe\n"
        "mine = Recipe('mine', schedule='sequential', averaged=('encoder',))\n"
        "other = 'no recipe'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert get("my_algorithms:mine").averaged == ("encoder",)
    assert get({"name": "my_algorithms:mine", "schedule": "relay", "averaged": []}).schedule == "relay"
    with pytest.raises(ConfigError, match=r"must be a cutlayer\.Recipe, got str"):
        get("my_algorithms:other")
    for missing in ("my_algorithms:nothing", "no_such_module:mine"):
        with pytest.raises(ConfigError, match=missing.split(":")[0]):
            get(missing)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("splitfed", "algorithm must be one of centralized, .*got 'splitfed'"),
        ("splitfed_v4", r"did you mean splitfed_v"),
        ({"name": None}, "algorithm must be one of"),
        ({}, "algorithm must be one of"),
        ({"name": "vanilla", "labels": "both"}, "labels must be one of server, client, got 'both'"),
        ({"name": "vanilla", "server": 2}, "server must be one of"),
        ({"name": "vanilla", "feedback": "telepathy"}, "feedback must be one of"),
        ({"name": "vanilla", "averaged": ["heart"]}, "averaged must be one of .*got 'heart'"),
        ({"name": "vanilla", "q": 5}, "algorithm vanilla has no option 'q'; it has: labels, server"),
        ({"name": "vanilla", "summary": "x"}, "has no option 'summary'"),
        ({"name": "cse_fsl", "upload_every": 0}, "upload_every must be a whole number of at least 1, got 0"),
        ({"name": "cse_fsl", "upload_every": 2.5}, "upload_every must be a whole number"),
        ({"name": "fsl_sage", "buffer": True}, "buffer must be a whole number"),
    ],
)
def test_wrong_specifications_are_refused(spec: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get(spec)


@pytest.mark.parametrize(
    "axes",
    [
        {"step": "joined", "schedule": "relay"},
        {"step": "joined", "labels": "client"},
        {"step": "joined", "server": "per_client"},
        {"step": "window", "server": "per_client"},
        {"step": "window", "schedule": "relay"},
        {"step": "window", "feedback": "auxiliary"},
        {"feedback": "averaged_cut_gradient", "schedule": "sequential"},
        {"feedback": "auxiliary", "labels": "client"},
        {"feedback": "estimated", "labels": "client"},
        {"upload_every": 5},
        {"feedback": "whole_model"},
        {"server": "none"},
        {"server": "none", "feedback": "whole_model", "schedule": "relay"},
        {"server": "per_client", "schedule": "relay"},
        {"averaged": ("auxiliary",)},
        {"averaged": ("backbone",)},
    ],
)
def test_contradictions_are_refused_at_once(axes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="algorithm mine contradicts itself"):
        Recipe("mine", **axes)


@given(
    axes=st.fixed_dictionaries(
        {
            "labels": st.sampled_from(["server", "client"]),
            "server": st.sampled_from(["shared", "per_client", "none"]),
            "step": st.sampled_from(["batch", "window", "joined"]),
            "feedback": st.sampled_from(
                ["cut_gradient", "averaged_cut_gradient", "auxiliary", "estimated", "none", "whole_model"]
            ),
            "schedule": st.sampled_from(["relay", "sequential", "interleaved"]),
        }
    )
)
def test_every_combination_is_a_recipe_or_refused_with_a_reason(axes: dict[str, Any]) -> None:
    try:
        recipe = Recipe("any", **axes)
    except ConfigError as error:
        assert "contradicts itself" in str(error)  # noqa: PT017
    else:
        assert recipe.whole == (recipe.server == "none")
        assert not (recipe.grouped and recipe.labels == "client")
