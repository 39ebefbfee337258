"""Error feedback: what a lossy codec left out is added to the next tensor of the same stream.

Stich et al. 2018, "Sparsified SGD with memory".  A stream is the tensor of one name, in the messages of one kind, of
one client.  It makes sense where consecutive tensors mean the same thing, as the updates of a weight do.  Activations
and their gradients belong to other samples in every batch, so there it is off unless asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from cutlayer.transforms import Context, Pieces, State, Transform


class ErrorFeedback(Transform):
    """Wraps a chain of lossy transforms and remembers, per stream, the error of the last tensor sent.

    Law: the sum of what was received differs from the sum of what was given by the last error only.

    Sending a message again (same ``Context.key``) starts from the error it started from the first time, and so gives
    the same pieces.  A tensor whose shape differs from the last one's starts without an error.
    """

    def __init__(self, *inner: Transform) -> None:
        self.inner: Sequence[Transform] = inner
        self._errors: dict[str, tuple[tuple[int, ...], Tensor | None, Tensor]] = {}

    def send(self, pieces: Pieces, context: Context) -> Pieces:
        tensor = pieces[""]
        key, before, after = self._errors.get(context.stream, (None, None, None))
        error = before if context.key and key == context.key else after
        if error is not None and error.shape == tensor.shape:
            tensor = tensor + error.to(tensor)
        else:
            error = None
        sent: Pieces = {"": tensor}
        for transform in self.inner:
            sent = transform.send(sent, context)
        left = tensor - self.receive(dict(sent), context)[""].to(tensor.dtype)
        self._errors[context.stream] = (context.key, error, left)
        return sent

    def receive(self, pieces: Pieces, context: Context) -> Pieces:
        for transform in reversed(self.inner):
            pieces = transform.receive(pieces, context)
        return pieces

    def state_dict(self) -> State:
        state: State = {}
        for stream, (key, before, after) in self._errors.items():
            state[f"{stream}|key"] = list(key)
            state[f"{stream}|after"] = after
            if before is not None:
                state[f"{stream}|before"] = before
        return state

    def load_state_dict(self, state: State) -> None:
        self._errors = {
            stream: (tuple(key), state.get(f"{stream}|before"), state[f"{stream}|after"])
            for stream, key in ((name.removesuffix("|key"), v) for name, v in state.items() if name.endswith("|key"))
        }
