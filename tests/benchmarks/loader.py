"""How fast is the loop? Against a DataLoader on Fashion-MNIST, and against bare matrix products on CIFAR-10.

    python tests/benchmarks/loader.py            both, a few minutes
    python tests/benchmarks/loader.py loader     one epoch against a torchvision data set through a DataLoader
    python tests/benchmarks/loader.py floor      one step against `torch.mm` and the fused optimiser alone

Run by hand on a quiet machine, with BPFREE_DATA set. Everything is measured in one process, alternating,
and printed as ratios of medians; nothing is asserted.
"""

import statistics
import sys
import time
from itertools import pairwise

import torch
from PIL import Image
from tabulate import tabulate
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import bpfree
from bpfree.training.chance import stream
from bpfree.training.clock import Clock
from bpfree.training.prefix import PrefixCache
from bpfree.training.stage import freeze_all_but, make_optimiser, step

BATCH = 128
CPU = torch.device("cpu")


def seconds(function, *arguments) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def prepare(algorithm, data, number: int = 0):
    """(stage, source, optimiser) as `train` would have them; the stages before it are taken as done."""
    algorithm.initialise(0)
    cache = PrefixCache(data, BATCH, CPU, "auto", torch.autocast("cpu", enabled=False))
    stage = algorithm.stages()[number]
    freeze_all_but(algorithm, stage)
    return stage, cache.source(stage, Clock(CPU)), make_optimiser(stage)


def epoch(stage, source, optimiser, batches: int | None = None):
    chance = stream("benchmark")
    for n, (inputs, labels) in enumerate(source.shuffled(stream("order"))):
        if n == batches:
            break
        step(stage, optimiser, inputs, labels, chance)


# ---------------------------------------------------------------- against the DataLoader


class Torchvision(Dataset):
    """Fashion-MNIST as torchvision serves it: a PIL image through ToTensor and Normalize per item."""

    def __init__(self, data):
        pixels = (data.x_train * data.std[0] + data.mean[0]).mul(255).round().to(torch.uint8)
        self.images, self.labels = pixels[:, 0].numpy(), data.y_train.tolist()
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int):
        return self.transform(Image.fromarray(self.images[i])), self.labels[i]


def loader_epoch(stage, optimiser, loader):
    """The same update, batch for batch; the prefix is computed for every batch, as public code does."""
    chance = stream("benchmark")
    for images, labels in loader:
        with torch.no_grad():
            for module in stage.prefix:
                images = module(images)
        step(stage, optimiser, images, labels, chance)


def against_the_loader(repeats: int = 3):
    data = bpfree.load("fashion_mnist")
    served = Torchvision(data)
    rows = []
    default = torch.get_num_threads()
    for name, number in (("bp", 0), ("mf", 1)):
        algorithm = bpfree.arm(name).make(bpfree.MLP([784, 1000, 1000], classes=10))
        stage, source, optimiser = prepare(algorithm, data, number)
        epoch(stage, source, optimiser, 20)
        times = {}
        for _ in range(repeats):
            times.setdefault("ours", []).append(seconds(epoch, stage, source, optimiser))
            for workers in (0, 1, 2):
                for threads in (1, default):
                    torch.set_num_threads(threads)
                    loader = DataLoader(served, BATCH, shuffle=True, drop_last=True, num_workers=workers)
                    took = seconds(loader_epoch, stage, optimiser, loader)
                    times.setdefault((workers, threads), []).append(took)
            torch.set_num_threads(default)
        ours = statistics.median(times.pop("ours"))
        settings = {setting: statistics.median(values) for setting, values in times.items()}
        best = min(settings, key=settings.get)
        for (workers, threads), took in settings.items():
            usual = "as usually run" if (workers, threads) == (2, default) else ""
            mark = "best setting" if (workers, threads) == best else usual
            rows.append(
                [name, stage.name, workers, threads, f"{took:.2f}", f"{ours:.2f}", f"{took / ours:.2f}", mark]
            )
    headers = ["algorithm", "stage", "workers", "threads", "loader (s)", "bpfree (s)", "ratio", ""]
    print(
        f"\nFashion-MNIST 2x1000, batch {BATCH}, fp32: one epoch, median of {repeats}; "
        f"bpfree at {default} threads"
    )
    print(tabulate(rows, headers=headers))


# ---------------------------------------------------------------- against the floor


def bare(widths: list[int], layers: range, optimiser, classes: int = 10):
    """The matrix products of one step on the given layers and their head, and the fused optimiser step.

    Layers below the given ones are a frozen prefix, which augmented images need computing anew: one
    product each.
    """
    x = [torch.randn(BATCH, d) for d in widths]
    w = [torch.randn(d_out, d_in) for d_in, d_out in pairwise(widths)]
    grads = [torch.randn(BATCH, d) for d in widths]
    head, score = torch.randn(classes, widths[layers[-1] + 1]), torch.randn(BATCH, classes)

    def run():
        for i in range(layers.stop):
            torch.mm(x[i], w[i].t())  # a_i W_iᵀ, of the prefix too
        torch.mm(x[layers[-1] + 1], head.t())
        torch.mm(score.t(), x[layers[-1] + 1])  # ∂head
        torch.mm(score, head)
        for i in reversed(layers):
            torch.mm(grads[i + 1].t(), x[i])  # ∂W_i
            if i > layers[0]:
                torch.mm(grads[i + 1], w[i])  # ∂a_{i-1}
        optimiser.step()

    return run


def one_step(stage, optimiser, batches):
    inputs, labels = next(batches)  # augmentation and, in a later stage, the recomputed prefix included
    step(stage, optimiser, inputs, labels, stream("benchmark"))


def against_the_floor(steps: int = 40):
    data = bpfree.load("cifar10")
    widths = [3072, 2000, 2000, 2000]
    rows = []
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        for name, number, layers in (("bp", 0, range(0, 3)), ("mf", 0, range(0, 1)), ("mf", 1, range(1, 2))):
            make = bpfree.arm(name).make
            stage, source, optimiser = prepare(make(bpfree.MLP(widths, classes=10)), data, number)
            _, _, twin = prepare(make(bpfree.MLP(widths, classes=10)), data, number)
            for group in twin.param_groups:
                for p in group["params"]:
                    p.grad = torch.randn_like(p)
            floor = bare(widths, layers, twin)
            batches = source.shuffled(stream("order"))
            ours, theirs = [], []
            for _ in range(steps + 3):
                ours.append(seconds(one_step, stage, optimiser, batches))
                theirs.append(seconds(floor))
            ours, theirs = ours[3:], theirs[3:]  # the first ones warm up
            a, b = statistics.median(ours), statistics.median(theirs)
            rows.append([name, stage.name, threads, f"{1e3 * b:.1f}", f"{1e3 * a:.1f}", f"{b / a:.2f}"])
    print(f"\nCIFAR-10 3x2000, batch {BATCH}, fp32, augmented: one step, median of {steps}")
    print(
        tabulate(
            rows, headers=["algorithm", "stage", "threads", "floor (ms)", "bpfree (ms)", "floor / bpfree"]
        )
    )
    print("The floor is the bare torch.mm calls of the same shapes plus the bare fused optimiser step.")


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["loader", "floor"]
    print(bpfree.environment_line())
    if "loader" in wanted:
        against_the_loader()
    if "floor" in wanted:
        against_the_floor()
