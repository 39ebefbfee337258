"""Split overhead: samples/s of split training in one process over ordinary training of the same uncut model.

    python benchmarks/overhead.py                        both models on random tensors
    python benchmarks/overhead.py --cifar DATA           simple_conv on CIFAR-10, 24x24 crops with flips
    python benchmarks/overhead.py --models mlp --optimizer sgd --repetitions 200

Ordinary training is the loop that one would write without cutlayer: one model, one optimizer, batches of the same data
in memory (with the same augmentation), loss.backward(), step.  The split arms train the same number of samples in the
same batches through the local engine: messages, byte counts, seeds, records and hand-overs are all in their time.
Evaluation is in nobody's.

All arms take turns in one process, each for one short round, in an order that rotates; every ratio is between
neighbours in time, and the table shows the median of these ratios and their quartiles, by wall clock and by CPU time.
"""

from __future__ import annotations

import argparse
import gc
import platform
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor, nn

import cutlayer as cl
from cutlayer import models
from cutlayer.config import parse
from cutlayer.data import Augment, Dataset, TensorSamples
from cutlayer.engines.local import LocalEngine
from cutlayer.engines.prepare import prepare

BATCH = 64
ARMS = ("vanilla", "splitfed_v2", "ushaped")
TARGETS = {"simple_conv": 0.97, "mlp": 0.6}


@dataclass(frozen=True)
class Case:
    """A model, the data that it is trained on, and how many batches each client has."""

    model: str
    dataset: Dataset
    augment: Augment | None
    batches: int
    repetitions: int


def random_dataset(shape: tuple[int, ...], samples: int) -> Dataset:
    """Return normally distributed inputs with random labels: what they are makes no difference to the time."""
    made = torch.Generator().manual_seed(0)
    train = TensorSamples(torch.randn((samples, *shape), generator=made), torch.randint(10, (samples,), generator=made))
    return Dataset("random", train, train, 10, tuple("0123456789"), shape)


def cases(options: argparse.Namespace) -> list[Case]:
    """Return the cases that were asked for."""
    found = []
    if "simple_conv" in options.models:
        count = options.clients * 4 * BATCH
        if options.cifar:
            dataset = cl.load_data("cifar10", path=options.cifar, train_limit=count, test_limit=BATCH)
            augment = Augment(crop=24, flip=True)
        else:
            dataset, augment = random_dataset((3, 24, 24), count), None
        found.append(Case("simple_conv", dataset, augment, 4, options.repetitions or 12))
    if "mlp" in options.models:
        dataset = random_dataset((784,), options.clients * 40 * BATCH)
        found.append(Case("mlp", dataset, None, 40, options.repetitions or 60))
    return found


def ordinary(case: Case, optimizer: dict[str, Any]) -> Callable[[], None]:
    """Return ordinary training of the uncut model, one pass over the data a call."""
    shape = case.augment.output_shape(case.dataset.input_shape) if case.augment else case.dataset.input_shape
    model = models.build(case.model, classes=10, input_shape=shape, seed=0).train()
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer["name"]]
    steps = kind(model.parameters(), **{k: v for k, v in optimizer.items() if k != "name"})
    loss_of = nn.CrossEntropyLoss()
    samples = case.dataset.train
    chance = torch.Generator().manual_seed(0)

    def train() -> None:
        total = torch.zeros(())
        for rows in torch.randperm(len(samples)).split(BATCH):
            (x,), y = samples.take(rows)
            if case.augment is not None:
                x = case.augment(x, chance)
            steps.zero_grad()
            loss: Tensor = loss_of(model(x), y)
            loss.backward()
            steps.step()
            total += loss.detach() * len(y)
        assert total.isfinite()

    return train


def split_training(case: Case, algorithm: str, optimizer: dict[str, Any], clients: int) -> Callable[[], None]:
    """Return one round of ``algorithm`` on the local engine, which is one pass over the data, a call."""
    keys = {
        "algorithm": algorithm,
        "model": case.model,
        "data": "random",
        "partition": "iid",
        "clients": {"count": clients, "test_fraction": 0.0},
        "batch_size": BATCH,
        "optimizer": optimizer,
        "device": "cpu",
        "augment": {"crop": 24, "flip": True} if case.augment else None,
    }
    prepared = prepare(parse(keys), dataset=case.dataset)
    engine = LocalEngine(prepared.setup, prepared.settings)

    def train() -> None:
        found = engine.round()
        assert found["samples"] == len(case.dataset.train)

    return train


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Return the wall and CPU seconds of a call."""
    wall, cpu = perf_counter(), process_time()
    work()
    return perf_counter() - wall, process_time() - cpu


def measure(arms: dict[str, Callable[[], None]], repetitions: int) -> dict[str, list[tuple[float, float]]]:
    """Return every arm's (wall, CPU) seconds a round, by repetition; within one the arms follow each other."""
    for work in arms.values():
        work()
        work()
    names = list(arms)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    gc.collect()
    for repetition in range(repetitions):
        turn = repetition % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(timed(arms[name]))
    return times


def spread(values: list[float]) -> str:
    """Return median and quartiles."""
    low, _, high = quantiles(values, n=4)
    return f"{median(values):.3f} [{low:.3f}, {high:.3f}]"


def report(case: Case, times: dict[str, list[tuple[float, float]]]) -> None:
    """Print the table of one case."""
    samples = len(case.dataset.train)
    print(f"\n{case.model} on {case.dataset.name} {case.dataset.input_shape}: {len(times['ordinary'])} repetitions")
    print(f"{'':14s}{'samples/s':>10s}{'us/batch':>10s}   {'by wall clock':26s}{'by CPU time':26s}target")
    for name, own in times.items():
        wall = median(w for w, _ in own)
        row = f"{name:14s}{samples / wall:10.0f}{wall / samples * BATCH * 1e6:10.0f}"
        if name != "ordinary":
            by = [[o[i] / s[i] for o, s in zip(times["ordinary"], own, strict=True)] for i in (0, 1)]
            row += f"   {spread(by[0]):26s}{spread(by[1]):26s}{TARGETS[case.model]:.2f}"
        print(row, flush=True)


def main() -> None:
    """Measure every case and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", metavar="DATA", help="folder with the binary CIFAR-10 files")
    parser.add_argument("--models", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), help="algorithms (default: %(default)s)")
    parser.add_argument("--optimizer", default="adam", choices=["adam", "sgd"], help="sgd has momentum 0.9")
    parser.add_argument("--clients", type=int, default=5)
    parser.add_argument("--repetitions", type=int, help="turns of every arm")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    optimizer: dict[str, Any] = {"name": options.optimizer, "lr": 1e-3}
    if options.optimizer == "sgd":
        optimizer["momentum"] = 0.9
    print(
        f"batch {BATCH}, {options.clients} clients, {options.optimizer}, {options.threads} thread(s), "
        f"torch {torch.__version__}, python {platform.python_version()}"
    )
    for case in cases(options):
        arms = {"ordinary": ordinary(case, optimizer)}
        arms |= {name: split_training(case, name, optimizer, options.clients) for name in options.arms}
        report(case, measure(arms, case.repetitions))


if __name__ == "__main__":
    main()
