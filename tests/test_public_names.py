"""The names that the package exports: adding or dropping one is a decision."""

from __future__ import annotations

import subprocess
import sys

import pytest

import cutlayer

NAMES = {
    "Augment",
    "CutlayerError",
    "Dataset",
    "RECIPES",
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
}


def test_exactly_these_names_are_public() -> None:
    assert set(cutlayer.__all__) == NAMES
    assert set(dir(cutlayer)) >= NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_public_name_is_there_and_documented(name: str) -> None:
    found = getattr(cutlayer, name)
    if callable(found):
        assert found.__doc__


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'magic'"):
        cutlayer.magic  # noqa: B018


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, cutlayer; cutlayer.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_errors_are_the_tree_that_is_drawn() -> None:
    from cutlayer import errors

    kinds = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert all(issubclass(kind, errors.CutlayerError) for kind in kinds)
    for kind in kinds:
        assert kind.__name__ in (errors.__doc__ or "")
        assert f" {kind.exit_code} " in (errors.__doc__ or "")
        assert 0 < kind.exit_code < 126
