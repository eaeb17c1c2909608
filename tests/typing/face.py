"""The package as a user calls it, for a type checker, which must find nothing wrong but the calls that are
marked as wrong. It is checked by `mypy` and not run."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import assert_type

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import bpfree
from bpfree import Experiment, energy, tuning
from bpfree.training import Augmentation, StageHistory

# ---------------------------------------------------------------- in a program

data = bpfree.load("digits", seed=1)
assert_type(data, bpfree.Data)
assert_type(data.x_train, Tensor)
assert_type(data.shape, tuple[int, int, int])
for batch in data.epoch(64, torch.Generator()):
    assert_type(batch, tuple[Tensor, Tensor])

model = bpfree.MLP([data.features, 100], classes=data.classes)
assert_type(model, bpfree.MLP)
assert_type(bpfree.arm("bp").make(model), bpfree.Algorithm)
assert_type(bpfree.MonoForward.from_preset(model, "thesis"), bpfree.MonoForward)
mf = bpfree.MonoForward(model, schedule="sequential", lr=1e-3)
with bpfree.EnergyMeter(country="POL", sources=["rapl"]) as meter:
    history = bpfree.train(mf, data, meter=meter, stopping=bpfree.Stopping(patience=3), cache=False)
assert_type(history, bpfree.History)
assert_type(history.stages, list[StageHistory])
assert_type(history.total(), float | None)
assert_type(mf.predict(data.x_test), Tensor)
assert_type(mf.predict_all(data.x_test), dict[str, Tensor])

images, labels = torch.rand(20, 3, 8, 8), torch.arange(20) % 2
own = bpfree.Data.from_arrays(
    images.movedim(1, -1).numpy(), labels, images, labels, std=1.0, augment=Augmentation(2)
)
assert_type(own, bpfree.Data)
pairs = TensorDataset(images, labels)
assert_type(bpfree.Data.from_dataset(pairs, pairs, val=pairs, mean=(0.5, 0.5, 0.5)), bpfree.Data)
bpfree.Data.from_dataset(pairs, 3)  # type: ignore[arg-type]

bpfree.load(3)  # type: ignore[arg-type]
bpfree.train(mf)  # type: ignore[call-arg]
bpfree.train("mf", data)  # type: ignore[arg-type]
bpfree.train(mf, data, seeds=[0])  # type: ignore[call-arg]
bpfree.train(mf, data, meter="rapl")  # type: ignore[arg-type]
bpfree.MLP([64, 10])  # type: ignore[call-arg]
bpfree.BackProp(model)  # type: ignore[attr-defined]

# ---------------------------------------------------------------- in the store

experiment = Experiment("mf", "digits", hyperparameters={"lr": 1e-3}, max_epochs=3)
record = bpfree.run(experiment, progress=False)
assert_type(record, bpfree.Record)
assert_type(record.metrics["test_accuracy"], float)
assert_type(record.weights(), dict[str, Tensor])
assert_type(bpfree.run_many([experiment], Path("store")), list[bpfree.Record])
assert_type(experiment.reference(), Experiment | None)
assert_type(tuning.space(experiment), dict[str, bpfree.Range])

bpfree.run("mf")  # type: ignore[arg-type]
Experiment("mf", datum="digits")  # type: ignore[call-arg]

# ---------------------------------------------------------------- the meter by itself


class Plug:
    name, unit, channel, period_s = "plug", "W", "machine", 1.0

    def read(self) -> float:
        return 75.0


energy.EnergyMeter(sources=["rapl", Plug(), energy.FileSource("log.csv", name="rack", unit="J")])
energy.EnergyMeter(sources=[model])  # type: ignore[list-item]

reading = meter.reading
assert_type(reading, energy.Reading)
assert_type(reading.measured_j, float | None)
assert_type(reading.provenance, str)
with meter.window("epoch 1") as window:
    assert_type(window.reading, energy.Reading)


@bpfree.measure
def work(n: int) -> str:
    return "done" * n


@bpfree.measure(country="POL", report=None)
def more(n: int) -> str:
    return "done" * n


assert_type(work(3), str)
assert_type(more(3), str)
work("3")  # type: ignore[arg-type]


# ---------------------------------------------------------------- parts of one's own


class Reservoir(bpfree.Algorithm):
    """Only the read-out learns."""

    def stages(self) -> list[bpfree.Stage]:
        head = self.head(len(self.model.blocks))
        assert_type(head, bpfree.Head)
        moving = head.parameters()
        return [self.stage("read-out", moving, self.losses, head, self.model.blocks, layer=2)]

    def losses(self, a: Tensor, labels: Tensor, generator: object) -> Iterator[Tensor]:
        yield nn.functional.cross_entropy(a, labels)


class Patient:
    def stop(self, rows: Sequence[dict[str, object]]) -> bool:
        return len(rows) > 7

    def best(self, rows: Sequence[dict[str, object]]) -> int:
        return len(rows)


arm = bpfree.Arm("reservoir", Reservoir, space={"lr": bpfree.Range(1e-3, 1e-1, "log")})
bpfree.train(arm.make(model), data, stopping=Patient())
bpfree.train(mf, data, stopping=3)  # type: ignore[arg-type]
