"""What there is to choose from, by key of an experiment."""

from __future__ import annotations

Rows = list[dict[str, str]]


def catalogue() -> dict[str, Rows]:
    """Return the names that each key accepts, with what they are."""
    from cutlayer.codecs import CODECS
    from cutlayer.data import SCHEMES, SOURCES
    from cutlayer.models import DEFAULT_CUTS, MODELS
    from cutlayer.models.auxiliary import KINDS
    from cutlayer.recipes import RECIPES
    from cutlayer.roles.aggregators import AGGREGATORS

    return {
        "algorithms": [
            {
                "name": r.name,
                "labels at": "one place" if r.pooled else "client" if r.whole else r.labels,
                "what": r.summary,
                "source": r.source,
            }
            for r in RECIPES.values()
        ],
        "models": [
            {"name": name, "cut": ", ".join(DEFAULT_CUTS[name]["one"]), "U-shape": ", ".join(DEFAULT_CUTS[name]["two"])}
            for name in MODELS
        ],
        "data": [{"name": name, "what": _summary(target)} for name, target in SOURCES.items()],
        "partitions": [{"name": name, "options": ", ".join(options) or "-"} for name, options in SCHEMES.items()],
        "codecs": [{"name": name, "what": _first_line(make.__doc__)} for name, make in CODECS.items()],
        "aggregators": [
            {"name": name, "options": ", ".join(rule.options) or "-", "what": rule.summary}
            for name, rule in AGGREGATORS.items()
        ],
        "auxiliaries": [{"name": name, "options": ", ".join(options) or "-"} for name, options in KINDS.items()],
    }


def _summary(target: str) -> str:
    from importlib import import_module

    module, _, function = target.partition(":")
    return _first_line(getattr(import_module(module), function).__doc__).removeprefix("Return ")


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]
