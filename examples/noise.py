"""A transform of one's own: noise on what leaves the client.  It is an illustration and promises no privacy.

Try it:

    cutlayer run codec.activations.name=examples.noise:Noise codec.activations.scale=0.1
"""

import torch

from cutlayer import Transform
from cutlayer.transforms import Context, Pieces


class Noise(Transform):
    """Adds Gaussian noise of standard deviation ``scale``; the receiver has nothing to undo.

    The noise comes from the message's own stream, so a message that has to be sent again is the same.
    """

    def __init__(self, scale: float = 0.1) -> None:
        self.scale = scale

    def send(self, pieces: Pieces, context: Context) -> Pieces:
        tensor = pieces[""]
        if not context.training:
            return pieces
        generator = torch.Generator().manual_seed(context.seed)
        noise = torch.randn(tensor.shape, generator=generator).to(tensor)
        return {"": tensor + self.scale * noise}
