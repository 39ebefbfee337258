"""cutlayer: split federated learning.  Cut any PyTorch model, train it exactly, see what it costs.

    import cutlayer as cl

    split = cl.split(model, at=["layer2"], example=x)
    result = cl.run("splitfed_v2", split, data, clients=5, rounds=10)

Names are imported when they are first used, so that ``import cutlayer`` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cutlayer.version import __version__

if TYPE_CHECKING:
    from cutlayer.api import resume, run
    from cutlayer.cutting.model import SplitModel
    from cutlayer.cutting.split import split
    from cutlayer.data import Augment, Dataset, TensorSamples
    from cutlayer.data import load as load_data
    from cutlayer.engines.running import Result
    from cutlayer.errors import CutlayerError
    from cutlayer.models import build as build_model
    from cutlayer.recipes import RECIPES, Recipe
    from cutlayer.report import compare
    from cutlayer.transforms import Transform

_HOMES = {
    "Augment": "cutlayer.data",
    "CutlayerError": "cutlayer.errors",
    "Dataset": "cutlayer.data",
    "RECIPES": "cutlayer.recipes",
    "Recipe": "cutlayer.recipes",
    "Result": "cutlayer.engines.running",
    "SplitModel": "cutlayer.cutting",
    "TensorSamples": "cutlayer.data",
    "Transform": "cutlayer.transforms",
    "build_model": "cutlayer.models:build",
    "compare": "cutlayer.report",
    "load_data": "cutlayer.data:load",
    "resume": "cutlayer.api",
    "run": "cutlayer.api",
    "split": "cutlayer.cutting",
}

__all__ = [
    "RECIPES",
    "Augment",
    "CutlayerError",
    "Dataset",
    "Recipe",
    "Result",
    "SplitModel",
    "TensorSamples",
    "Transform",
    "__version__",
    "build_model",
    "compare",
    "load_data",
    "resume",
    "run",
    "split",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(module), attribute or name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
