"""A stage whose steps are replayed from buffers learns, to the bit, what it learns when they are called.

Here on a CPU, where the buffers are read by the same functions without a capture; test_cuda.py captures them.
"""

import pytest
import torch
from helpers import LADDER, Eager, chance, for_epochs, same, toy, weights

import bpfree
from bpfree.algorithms import ARMS
from bpfree.algorithms.negatives import hard_wrong, uniform_wrong
from bpfree.algorithms.networks import MLP, CaFoCNN
from bpfree.errors import InvalidInput, UnknownName
from bpfree.training import Augmentation
from bpfree.training.chance import Chance, Noted, Tape, stream
from bpfree.training.history import OUTCOME
from bpfree.training.loop import train

LIVING_ON = ("bp_freeze", "mf_overlapped")  # from one stage to the next, with the optimiser's state
OPTIONS = [
    *((name, {}) for name in ARMS),
    ("bp", {"optimiser": "sgd", "lr_schedule": "step"}),
    ("mf", {"optimiser": "sgd", "momentum": 0.0}),
    *((name, {"lr_schedule": "linear"}) for name in ("bp", "mf", "ff", *LIVING_ON)),
    *((name, {"lr_schedule": "cosine", "optimiser": "sgd"}) for name in ("bp", *LIVING_ON)),
    ("ff", {"negatives": "hard"}),
    ("ff", {"negatives": "hybrid", "predict_by": "softmax"}),
    ("ff", {"predict_by": "softmax", "passes": 1, "lr_schedule": "cooldown"}),
    ("cafo_rand", {"loss": "sparsemax"}),
]


def trained(name, options, data, seed=3, **how):
    """An arm's weights and history after three epochs a stage."""
    convolutional = name.startswith("cafo")
    network = (
        CaFoCNN(data.shape, classes=3, channels=(4, 6)) if convolutional else MLP([36, 12, 9], classes=3)
    )
    algorithm = ARMS[name].make(network, **{"batch_size": 16, **options})
    how |= for_epochs(algorithm, 3)
    history = train(algorithm, data, seed=seed, device="cpu", progress=False, **how)
    return weights(algorithm), history


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(90, 6, 6, generator=generator)
    y = torch.arange(90) % 3
    x += y[:, None, None] * torch.eye(6)
    return bpfree.Data.from_arrays(x[:70], y[:70], x[70:], y[70:])


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_replayed_steps_learn_what_called_ones_learn(name, options, data):
    called, first = trained(name, options, data, executor="eager")
    replayed, second = trained(name, options, data, executor="graph")
    assert same(called, replayed)
    assert first.frame()[list(OUTCOME)].equals(second.frame()[list(OUTCOME)])
    used = {s.executor for s in second.stages if s.ended != "solved"}
    assert used <= {"graph"}
    assert {s.executor for s in first.stages} == {"eager"}
    assert used or all(s.ended == "solved" for s in second.stages)


@pytest.mark.parametrize("name", ["bp", "mf", "ff", "cafo_dfa"])
@pytest.mark.parametrize("how", [{"cache": False}, {"precision": "bf16"}])
def test_so_they_do_with_recomputed_prefixes_and_in_bf16(name, how, data):
    assert same(*(trained(name, {}, data, executor=kind, **how)[0] for kind in ("eager", "graph")))


@pytest.mark.parametrize("name", ["bp", "mf", "ff", "cafo_dfa"])
def test_so_they_do_on_augmented_images(name, data):
    x, y = data.x_train.numpy()[:, 0], data.y_train.numpy()
    augmented = bpfree.Data.from_arrays(x[:50], y[:50], x[50:], y[50:], augment=Augmentation(pad=1))
    plain = bpfree.Data.from_arrays(x[:50], y[:50], x[50:], y[50:])
    found = [trained(name, {}, augmented, executor=kind)[0] for kind in ("eager", "graph")]
    assert same(*found)
    assert not same(found[0], trained(name, {}, plain)[0])


KINDS = [("graph", "graph"), ("eager", "graph"), ("graph", "eager")]
RESUMED = [
    *((name, "constant", kinds) for name in (*LADDER, "ff") for kinds in KINDS),
    *((name, "linear", ("eager", "graph")) for name in ("bp", "mf", "ff")),
    *((name, "linear", kinds) for name in LIVING_ON for kinds in KINDS),
]


@pytest.mark.parametrize(("name", "schedule", "kinds"), RESUMED)
def test_a_run_resumes_under_either(name, schedule, kinds, data, tmp_path):
    options = {"lr_schedule": schedule}
    whole, _ = trained(name, options, data)
    before, after = kinds
    with pytest.raises(KeyboardInterrupt):
        trained(name, options, data, executor=before, checkpoint=Eager(tmp_path / "c", dies_after=2))
    assert same(whole, trained(name, options, data, executor=after, checkpoint=Eager(tmp_path / "c"))[0])


def test_a_tape_gives_every_step_what_it_would_have_drawn():
    def step(draws: Chance):
        return (
            draws.integers(1, 10, 7),
            draws.uniform(3, 2),
            draws.exponential(4, 5),
            draws.permutation(6),
        )

    noted, cursor, device = Noted(torch.device("cpu")), torch.zeros(1, dtype=torch.int64), torch.device("cpu")
    step(noted)
    tape = Tape(noted.draws, 5, device, lambda buffer: buffer.index_select(0, cursor)[0])
    for epoch in (1, 2):
        tape.record(stream("epoch", epoch))
        cursor.zero_()
        plain = Chance(stream("epoch", epoch))
        for _ in range(5):
            tape.rewind()
            for found, expected in zip(step(tape), step(plain), strict=True):
                assert torch.equal(found, expected)
                assert found.dtype == expected.dtype
            cursor += 1


class Unsteady(bpfree.Backprop):
    """Asks for other random numbers at its second step than at the first."""

    count = 0

    def losses(self, x, labels, chance):
        self.count += 1
        for draw in self.asks(chance)[: 2 if self.count == 1 else None]:
            draw(len(x))
        yield from super().losses(x, labels, chance)


class Others(Unsteady):
    def asks(self, chance):
        return [chance.uniform, chance.uniform if self.count == 1 else chance.exponential]


class Fewer(Unsteady):
    def asks(self, chance):
        return [chance.uniform] * (2 if self.count == 1 else 1)


class More(Unsteady):
    def asks(self, chance):
        return [chance.uniform] * 3


class Replacing(bpfree.Backprop):
    """Puts another tensor in a buffer's place, which a captured step would never see."""

    def losses(self, x, labels, chance):
        self.stages_finished = self.stages_finished.clone()
        yield from super().losses(x, labels, chance)


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [(Others, "other random"), (Fewer, "other random"), (More, "other random"), (Replacing, "buffer")],
)
def test_what_cannot_be_replayed_is_refused(algorithm, said, data):
    with pytest.raises(InvalidInput, match=said):
        train(algorithm(MLP([36, 9], classes=3)), data, max_epochs=1, progress=False, executor="graph")


def test_wrong_labels_are_those_that_torch_itself_draws():
    labels, logits = torch.arange(50) % 5, torch.randn(50, 5, generator=stream("logits"))
    shift = torch.randint(1, 5, (50,), generator=torch.Generator().manual_seed(1))
    assert torch.equal(uniform_wrong(labels, 5, chance(1)), (labels + shift) % 5)
    wrong = logits.scatter(1, labels[:, None], -torch.inf).softmax(1)
    drawn = torch.multinomial(wrong, 1, generator=torch.Generator().manual_seed(1))[:, 0]
    assert torch.equal(hard_wrong(labels, logits, chance(1)), drawn)


def test_an_unknown_executor_is_refused():
    with pytest.raises(UnknownName, match="graf"):
        train(ARMS["bp"].make(MLP([4, 3], classes=2)), toy(), executor="graf")
