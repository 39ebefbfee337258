"""An algorithm of one's own: SplitFed v2 whose encoders learn in the first rounds only and then stay as they are.

Try it:

    cutlayer run algorithm=examples.warm_up:recipe rounds=8
"""

from cutlayer import Recipe, step
from cutlayer.roles.client import Client, Turn
from cutlayer.roles.settings import Batch

WARM_UP = 5


def cut_gradient_at_first(client: Client, batch: Batch) -> Turn:
    """Exchange (h, y) for the loss and the cut gradient; use the latter in the first rounds only."""
    done = client.encode(batch)
    reply = yield client.request("train", batch, step.detached(done.outputs), labels=True)
    client.progress.add(reply.tensors["loss"], batch.size)
    if batch.key.round <= WARM_UP:
        client.descend("encoder", done, client.received("cut_gradients", "g", reply, batch))


recipe = Recipe(
    "warm_up",
    labels="server",
    schedule="sequential",
    feedback=cut_gradient_at_first,
    averaged=("encoder",),
    summary=f"SplitFed v2 with encoders that are frozen after round {WARM_UP}",
)
