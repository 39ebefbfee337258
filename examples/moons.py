"""A data set of one's own: two half moons, seen by clients that each have turned them by another angle.

Try it:

    cutlayer run data=examples.moons:moons partition=natural clients=4
"""

import math

import numpy as np
import torch
from sklearn.datasets import make_moons

from cutlayer import Dataset, TensorSamples


def moons(clients: int = 4, samples: int = 100, noise: float = 0.1, seed: int = 0) -> Dataset:
    """Return ``samples`` points for training, and as many for testing, of each client."""
    points, labels = [], []
    for client in range(2 * clients):  # the second half is for testing
        x, y = make_moons(samples, noise=noise, random_state=seed + client)
        angle = 2 * math.pi * (client % clients) / (8 * clients)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        points.append(torch.tensor(x @ turn, dtype=torch.float32))
        labels.append(torch.tensor(y))
    groups = torch.arange(clients).repeat_interleave(samples)
    return Dataset(
        name="moons",
        train=TensorSamples(torch.cat(points[:clients]), torch.cat(labels[:clients])),
        test=TensorSamples(torch.cat(points[clients:]), torch.cat(labels[clients:])),
        classes=2,
        class_names=("upper", "lower"),
        input_shape=(2,),
        groups=groups,
        test_groups=groups.clone(),
        group_names=tuple(f"angle {i}" for i in range(clients)),
    )
