"""LeNet-5 (LeCun et al. 1998) as it is used today: ReLU and max pooling."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from cutlayer.models.checks import image


def lenet(classes: int, input_shape: tuple[int, ...]) -> nn.Sequential:
    """Return LeNet-5 from images (b, c, h, w) of at least 12x12 pixels to logits (b, classes).

    Children: conv1, relu1, pool1, conv2, relu2, pool2, flatten, fc1, relu3, fc2, relu4, fc3.  The first convolution
    pads by 2, as if the 28x28 digits were the 32x32 ones of the paper.
    """
    channels, height, width = image("lenet", input_shape, least=12)

    def left(size: int) -> int:
        return (size // 2 - 4) // 2

    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 6, 5, padding=2),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(16 * left(height) * left(width), 120),
            relu3=nn.ReLU(),
            fc2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            fc3=nn.Linear(84, classes),
        )
    )
