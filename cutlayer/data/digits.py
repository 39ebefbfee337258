"""Digits: 1,797 grey images 8x8 of ten digits, inside scikit-learn, so that a first run needs no download."""

from __future__ import annotations

import numpy as np
import torch

from cutlayer.data.apportion import stratified
from cutlayer.data.images import as_images, image_dataset
from cutlayer.data.samples import Dataset


def digits(
    *,
    test_fraction: float = 0.2,
    seed: int = 0,
    train_limit: int | None = None,
    test_limit: int | None = None,
    normalize: bool = True,
) -> Dataset:
    """Return scikit-learn's digits (UCI optical recognition of handwritten digits): inputs (1, 8, 8), ten classes.

    The source has no test set: ``test_fraction`` of each class is set aside, the same for equal ``seed``.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = as_images(pixels.reshape(-1, 8, 8).astype(np.uint8))
    targets = torch.from_numpy(labels.astype(np.int64))
    train, test = stratified(targets, test_fraction, seed, "data", "digits", "test")
    return image_dataset(
        "digits",
        (images[train], targets[train]),
        (images[test], targets[test]),
        tuple(map(str, range(10))),
        train_limit=train_limit,
        test_limit=test_limit,
        normalize=normalize,
        top=16,
        note="UCI optical recognition of handwritten digits, the 1,797 images of scikit-learn",
    )
