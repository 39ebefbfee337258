"""Experiments as they are submitted: checked before anything is kept, read again at every transition."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from cutlayer import choices, config, recipes
from cutlayer.config import Experiment
from cutlayer.errors import CutlayerError
from cutlayer.services.backend.picture import Terms
from cutlayer.services.errors import Unprocessable

log = logging.getLogger(__name__)

MOST_CLIENTS = 10_000
MOST_ROUNDS = 1_000_000


def accepted(tree: Mapping[str, Any]) -> Experiment:
    """Return the experiment that ``tree`` describes, if services can run it.  Raises Unprocessable."""
    try:
        found = config.parse(tree)
        recipe = recipes.get(found.algorithm) if ":" not in found.algorithm["name"] else None
        choices.check(found)
        if recipe is not None:
            choices.check_for_services(found, recipe)
    except CutlayerError as error:
        raise Unprocessable(str(error), code="bad_experiment") from error
    except Exception as error:
        log.info("an experiment could not be read: %r", error)
        raise Unprocessable(
            "the experiment has a value of a kind that none of its keys takes; try it with `cutlayer run` first",
            code="bad_experiment",
        ) from error
    for wrong, sentence in (
        (
            recipe is None,
            "algorithm must be a name from `cutlayer list algorithms`: a backend runs no code that an experiment names",
        ),
        (recipe is not None and recipe.pooled, "this algorithm needs all data in one place: use `cutlayer run`"),
        (found.seeds != 1, f"seeds must be 1, got {found.seeds}: submit one run per seed"),
        (found.clients.count > MOST_CLIENTS, f"clients.count must be at most {MOST_CLIENTS}"),
        (found.rounds > MOST_ROUNDS, f"rounds must be at most {MOST_ROUNDS}"),
        (max(found.seed, found.local_epochs, found.batch_size) >= 2**63, "numbers must have at most 63 bits"),
    ):
        if wrong:
            raise Unprocessable(sentence, code="bad_experiment")
    return found


def terms(experiment: Mapping[str, Any]) -> tuple[Terms, dict[str, str]]:
    """Return what an accepted experiment says about the course of its run, and the labels it requires of clients."""
    return _terms(json.dumps(experiment, sort_keys=True))


@lru_cache(maxsize=256)
def _terms(text: str) -> tuple[Terms, dict[str, str]]:
    found = config.parse(json.loads(text))
    clients = found.clients
    return (
        Terms(
            recipe=recipes.get(found.algorithm),
            rounds=found.rounds,
            seed=found.seed,
            count=clients.count,
            minimum=clients.count if clients.minimum is None else clients.minimum,
            fraction=clients.fraction,
            deadline=clients.deadline,
            quorum=clients.quorum,
            evaluate_every=found.evaluate.every,
            join=clients.join,
        ),
        clients.require,
    )
