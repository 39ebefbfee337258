"""Augmentation against the same thing done one image at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cutlayer.data import Augment
from cutlayer.errors import ConfigError


def images(n: int = 32, size: int = 8, channels: int = 3) -> Tensor:
    """Images whose pixels are all different and none zero."""
    return torch.arange(1.0, n * channels * size * size + 1).view(n, channels, size, size)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def windows(image: Tensor, augment: Augment) -> list[Tensor]:
    """All results that cropping and flipping ``image`` may have."""
    padded = F.pad(image, [augment.padding] * 4)
    side = augment.crop or image.shape[1]
    found = [
        padded[:, y : y + side, x : x + side]
        for y in range(padded.shape[1] - side + 1)
        for x in range(padded.shape[2] - side + 1)
    ]
    return found + [window.flip(2) for window in found] if augment.flip else found


@given(st.sampled_from([None, 8, 5, 1]), st.integers(0, 3), st.booleans(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_every_result_is_a_window_of_its_own_image(crop: int | None, padding: int, flip: bool, seed: int) -> None:
    augment, batch = Augment(crop=crop, padding=padding, flip=flip), images(6)
    changed = augment(batch, generator(seed))
    assert changed.shape[1:] == augment.output_shape((3, 8, 8))
    for before, after in zip(batch, changed, strict=True):
        assert any(torch.equal(after, window) for window in windows(before, augment))


def test_all_windows_come_up() -> None:
    augment = Augment(crop=6, flip=True)
    changed = augment(images(1).expand(2000, 3, 8, 8), generator())
    assert len({tuple(image.flatten().tolist()) for image in changed}) == 3 * 3 * 2


def test_half_of_the_images_are_flipped() -> None:
    batch = images(2000, 4, 1)
    changed = Augment(flip=True)(batch, generator())
    flipped = sum(torch.equal(a, b.flip(2)) for a, b in zip(changed, batch, strict=True))
    assert 900 < flipped < 1100


def test_cutout_hides_one_square_and_nothing_else() -> None:
    batch = images(200)
    changed = Augment(cutout=4)(batch, generator())
    for before, after in zip(batch, changed, strict=True):
        hidden = (after == 0).all(0)
        assert torch.equal(after[:, ~hidden], before[:, ~hidden])
        rows, columns = hidden.any(1).nonzero().flatten(), hidden.any(0).nonzero().flatten()
        assert 2 <= len(rows) <= 4
        assert 2 <= len(columns) <= 4
        assert int(hidden.sum()) == len(rows) * len(columns)
    rows_hidden = (changed == 0).all(1).any(2)
    spans = {tuple(row.nonzero().flatten().tolist()) for row in rows_hidden}
    assert spans == {tuple(range(max(0, centre - 2), min(8, centre + 2))) for centre in range(8)}


def test_the_generator_decides_everything_and_nothing_else_is_drawn() -> None:
    augment, batch = Augment(crop=6, padding=1, flip=True, cutout=2), images()
    state = torch.get_rng_state()
    first, second = augment(batch, generator(1)), augment(batch, generator(1))
    assert torch.equal(first, second)
    assert not torch.equal(first, augment(batch, generator(2)))
    assert torch.equal(state, torch.get_rng_state())


def test_the_batch_itself_is_left_alone() -> None:
    batch = images()
    copy = batch.clone()
    for augment in (Augment(), Augment(cutout=3), Augment(crop=4, flip=True, cutout=3)):
        augment(batch, generator())
        augment.evaluate(batch)
    assert torch.equal(batch, copy)


def test_evaluation_takes_the_centre() -> None:
    batch = images(2)
    assert torch.equal(Augment(crop=4, flip=True, cutout=2).evaluate(batch), batch[:, :, 2:6, 2:6])
    assert torch.equal(Augment(padding=4, flip=True).evaluate(batch), batch)


def test_images_need_not_be_square() -> None:
    batch = torch.randn(4, 1, 6, 9)
    assert Augment(padding=2, flip=True)(batch, generator()).shape == (4, 1, 6, 9)
    assert Augment(crop=5)(batch, generator()).shape == (4, 1, 5, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 0}, "crop must be a whole number of at least 1, and 0 came"),
        ({"padding": -1}, "padding must be a whole number"),
        ({"cutout": 1.5}, "cutout must be a whole number"),
        ({"padding": None}, "padding must be a whole number"),
        ({"flip": "yes"}, "flip must be true or false"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Augment(**options)  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="must fit into the 8x8 images, and 9 came"):
        Augment(crop=9).output_shape((1, 8, 8))
    with pytest.raises(ConfigError, match="needs images"):
        Augment(crop=9).output_shape((13,))
