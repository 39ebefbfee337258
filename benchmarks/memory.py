"""Peak memory, flat in the number of rounds and of outstanding forwards.

    python benchmarks/memory.py

Each figure is the peak resident size of a fresh process, libraries included; the ratio compares two amounts of the same
work.  Forwards wait in a store on disk, as in a split server whose clients
are slow to come back; each carries an activation of 1 MB, so that keeping them in memory would show.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile

ROUNDS = (5, 50)
FORWARDS = (10, 1000)


def rounds(count: int) -> None:
    """Train ``count`` rounds of file_sync with a checkpoint each."""
    import cutlayer as cl

    with tempfile.TemporaryDirectory() as folder:
        cl.run("file_sync", {"name": "mlp", "hidden": [512, 512]}, "digits", rounds=count, out=f"{folder}/run")


def forwards(count: int) -> None:
    """Leave ``count`` forwards of 256 x 1024 floats waiting in a file store, then answer the last one's backward."""
    import torch
    from torch import nn

    from cutlayer.recipes import get
    from cutlayer.roles.part import Part
    from cutlayer.roles.settings import Settings
    from cutlayer.roles.split_server import SplitServer
    from cutlayer.roles.window import Window
    from cutlayer.store import ForwardRecords, open_store
    from cutlayer.transforms import Channel
    from cutlayer.wire import Message

    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        records = ForwardRecords(store, "run")
        part = Part("backbone", nn.Sequential(nn.Linear(1024, 256), nn.ReLU()), {"name": "sgd", "lr": 0.1})
        settings = Settings(get("file_sync"), ("encoder", "backbone", "head"))
        server = SplitServer(part, settings, Channel(), records, Window(store, "run", part, records))
        for batch in range(count):
            meta = {"key": [0, 1, 0, batch], "samples": 256}
            reply = server.handle(Message("forward", {"h0": torch.randn(256, 1024)}, meta))
        delta = {"d0": torch.ones(256, 256)}
        server.handle(Message("backward", delta, {**meta, "forward": reply.meta["forward"]}))


def peak(work: str, count: int) -> float:
    """Return the peak resident megabytes of a fresh process that does ``work`` ``count`` times."""
    command = [sys.executable, __file__, "--work", work, "--count", str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024


def main() -> None:
    """Print peaks and ratios, or do the work of one process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=("rounds", "forwards"), help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        {"rounds": rounds, "forwards": forwards}[options.work](options.count)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    for work, (few, many) in (("rounds", ROUNDS), ("forwards", FORWARDS)):
        small, large = peak(work, few), peak(work, many)
        print(f"{work:9s}{few:6d}: {small:7.1f} MB {many:6d}: {large:7.1f} MB   ratio {large / small:.3f}", flush=True)


if __name__ == "__main__":
    main()
