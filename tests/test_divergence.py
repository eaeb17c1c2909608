"""Divergence, in any operation of any arm, is TrainingDiverged: the record stays, the batch goes on."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import chance, for_epochs, toy
from torch import nn
from torch.nn.functional import one_hot

import bpfree
from bpfree import diagnostics, tuning
from bpfree.algorithms import ARMS, Algorithm
from bpfree.algorithms.negatives import hard_wrong
from bpfree.algorithms.networks import MLP, CaFoCNN
from bpfree.algorithms.solved import NormalEquations
from bpfree.algorithms.sparsemax import sparsemax
from bpfree.errors import TrainingDiverged
from bpfree.training.loop import train
from bpfree.training.stage import Stage
from bpfree.training.stopping import Budget, Length, Stopping

SHAPE = (1, 8, 8)
NEVER = Stopping(patience=None)


def arm(name, **options):
    network = (
        CaFoCNN(SHAPE, classes=3, channels=(3, 4)) if name.startswith("cafo") else MLP([64, 9, 8], classes=3)
    )
    return ARMS[name].make(network, **{"batch_size": 16, **options})


def diverged(algorithm, data=None, **how):
    """What training it raised; it has a history that says how far it came."""
    how = {"stopping": NEVER, "progress": False, **for_epochs(algorithm, 30), **how}
    with pytest.raises(TrainingDiverged) as raised:
        train(algorithm, data or toy(n=40, shape=SHAPE), **how)
    error = raised.value
    last = error.history.stages[-1]
    assert (error.stage, error.epoch) == (last.name, last.rows[-1]["epoch"]) == (last.name, len(last.rows))
    assert error.history.frame()["train_s"].notna().all()
    assert "\n" not in str(error)
    return error


SGD = {"optimiser": "sgd", "momentum": 0.0}
RATES = {
    **{name: {"lr": 1e38, **SGD} for name in ARMS if name not in ("cafo_rand_mse", "fp")},  # without a rate
    "ff": {"lr": 1e38},
    "ff_sgd": {"lr": 1e38},
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", RATES)
def test_an_absurd_rate_is_divergence_in_every_arm(name, precision):
    error = diverged(arm(name, **RATES[name]), precision=precision)
    assert "lower the learning rate" in str(error)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cafo_rand", {"loss": "sparsemax", "lr": 1e38}),
        ("cafo_rand", {"loss": "sparsemax", "lr": 1e38, **SGD}),
        ("cafo_dfa", {"block_lr": 1e38, "loss": "sparsemax"}),
        ("cafo_dfa", {"error": "sum", "block_lr": 1e30, **SGD}),
        ("ff", {"negatives": "hard", "head_lr": 1e10}),
        ("ff", {"negatives": "hard", "head_lr": 1e38, **SGD}),
        ("ff", {"negatives": "hybrid", "predict_by": "softmax", "lr": 1e38}),
        ("ff", {"predict_by": "softmax", "head_lr": 1e38, **SGD}),
        ("bp", {"weight_decay": 1e38, **SGD}),
        ("mf_joint", {"aux_weight": 1e38, "lr": 1e10, **SGD}),
    ],
    ids=str,
)
def test_so_are_absurd_rates_of_anything_else(name, options):
    error = diverged(arm(name, **options))
    for rate in (value for option, value in options.items() if option.endswith("lr")):
        assert error.lr == rate  # the one to be lowered


def huge(scale):
    data = toy(n=40, shape=SHAPE)
    return replace(data, x_train=data.x_train * scale, x_val=data.x_val * scale)


@pytest.mark.parametrize("name", ["cafo_rand", "cafo_rand_mse"])
def test_statistics_that_overflow_are_divergence_of_the_stage_that_took_them(name):
    error = diverged(arm(name), huge(1e30))  # its square is no float32
    assert (error.stage, error.epoch, error.lr) == ("calibrate 1", 1, None)
    assert "'calibrate 1' has no finite solution" in str(error)


def test_least_squares_without_a_solution_is_divergence_and_the_batch_goes_on(tmp_path):
    sound = bpfree.Experiment("cafo_rand_mse", "digits", architecture="cnn-4", options={"calibrate": False})
    # More features than images.
    hopeless = replace(sound, architecture="cnn-128", hyperparameters={"ridge": 0.0})
    records = bpfree.run_many([hopeless, sound], tmp_path, progress=False)
    assert [record.status for record in records] == ["failed", "finished"]
    assert records[0].error == {"stage": "predictor 1", "epoch": 1, "lr": None}
    assert records[0].history["stage"].tolist() == ["predictor 1"]
    with pytest.raises(TrainingDiverged, match="larger ridge"):
        bpfree.run(hopeless, tmp_path, progress=False)


def test_what_one_batch_cannot_solve_is_counted_all_the_same():
    """Of a run whose data had a solution the bill is made on one batch, which may have none."""
    data = toy(n=400, shape=SHAPE)
    with_ridge, without = (arm("cafo_rand_mse", ridge=ridge) for ridge in (1e-3, 0.0))
    assert diagnostics.flops(without, data).equals(diagnostics.flops(with_ridge, data))


def test_a_batch_and_a_study_go_on_when_operations_refuse_nan(tmp_path):
    plain = {"data": "digits", "max_epochs": 1}
    nets = {"architecture": "cnn-4-4"}
    experiments = [
        bpfree.Experiment(
            "cafo_rand", **plain, **nets, options={"loss": "sparsemax"}, hyperparameters={"lr": 1e38}
        ),
        bpfree.Experiment(
            "ff",
            **plain,
            architecture="2x12",
            options={"negatives": "hard"},
            hyperparameters={"head_lr": 1e10},
        ),
        bpfree.Experiment("cafo_rand", **plain, **nets, options={"loss": "sparsemax"}),
    ]
    records = bpfree.run_many(experiments, tmp_path, progress=False)
    assert [record.status for record in records] == ["failed", "failed", "finished"]
    assert all(len(record.history) for record in records)
    space = {"lr": (1e37, 1e38, "log")}
    study = tuning.tune(experiments[2], 2, tmp_path / "s.log", space=space, progress=False)
    assert tuning.trials(study)["state"].tolist() == ["diverged"] * 2


# ---------------------------------------------------------------- what a loss does not tell


class OneStep(Algorithm):
    """Its loss is finite; what moves besides is up to a test."""

    def __init__(self, harm, validated=True):
        super().__init__(MLP([64, 4], classes=3), batch_size=16)
        self.heads["1"] = nn.Linear(64, 3)
        self.register_buffer("statistic", torch.zeros(2))
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))  # as it should be
        self.harm, self.validated, self.steps = harm, validated, 0

    def stages(self):
        stage = self.stage("only", self.heads.parameters(), self.losses, self.readout, layer=1)
        return [stage if self.validated else replace(stage, readout=None)]

    def losses(self, x, labels, chance):
        self.steps += 1
        yield nn.functional.cross_entropy(self.heads["1"](x.flatten(1)), labels)
        if self.steps == 2 * 4:  # the last step of the second of epochs of two
            self.harm(self)

    def readout(self, x):
        return self.heads["1"](x.flatten(1)).nan_to_num()  # a read-out that hides it


def weight(algorithm):
    with torch.no_grad():
        algorithm.heads["1"].bias[0] = -math.inf


def statistic(algorithm):
    algorithm.statistic[1] = math.nan


def refusal(algorithm):
    weight(algorithm)
    raise IndexError("index -1 is out of bounds")


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("harm", [weight, statistic, refusal])
def test_what_is_not_finite_after_the_last_step_is_divergence_whatever_the_losses_say(harm, validated):
    data = toy(n=64, shape=SHAPE)
    assert len(train(OneStep(lambda _: None), data, max_epochs=3, progress=False).stages[0].rows) == 3
    with pytest.raises(TrainingDiverged) as raised:
        train(OneStep(harm, validated), data, max_epochs=3, progress=False)
    assert (raised.value.stage, raised.value.epoch) == ("only", 2)
    assert len(raised.value.history.stages[0].rows) == 2


def test_an_error_that_has_nothing_to_do_with_it_stays_what_it_is():
    def bug(algorithm):
        raise IndexError("a bug")

    with pytest.raises(IndexError, match="a bug"):
        train(OneStep(bug), toy(n=64, shape=SHAPE), max_epochs=3, progress=False)


def test_a_solution_that_raises_or_is_nan_is_divergence():
    class Solved(Algorithm):
        def __init__(self, solve):
            super().__init__(MLP([64, 4], classes=3), batch_size=16)
            self.heads["1"], self.solve = nn.Linear(4, 3), solve

        def stages(self):
            return [Stage("s", accumulate=lambda x, y: None, solve=lambda: self.solve(self))]

    def raises(_):
        torch.linalg.inv(torch.zeros(2, 2))

    def nan(algorithm):
        algorithm.heads["1"].weight.fill_(math.nan)

    for solve in (raises, nan):
        with pytest.raises(TrainingDiverged) as raised:
            train(Solved(solve), toy(n=40, shape=SHAPE), progress=False)
        assert (raised.value.stage, raised.value.epoch, raised.value.lr) == ("s", 1, None)


# ---------------------------------------------------------------- rows that are not finite are alone


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_leaves_sparsemax_of_the_others_alone(bad):
    scores = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    expected = sparsemax(scores)
    scores[2, 1] = bad
    found = sparsemax(scores)
    assert found[2].isnan().any()
    others = [0, 1, 3, 4]
    assert torch.equal(found[others], expected[others])


@pytest.mark.parametrize("name", ARMS)
def test_an_image_that_is_not_finite_leaves_the_predictions_of_the_others_alone(name):
    options = {"loss": "sparsemax"} if name in ("cafo_rand", "cafo_dfa") else {}
    data, algorithm = toy(n=40, shape=SHAPE), arm(name, **options)
    train(algorithm, data, progress=False, **for_epochs(algorithm, 1))
    expected = algorithm.predict_all(data.x_test)
    images = data.x_test.clone()
    images[3] = math.nan
    found = algorithm.predict_all(images)
    others = [i for i in range(len(images)) if i != 3]
    for way in expected:
        assert torch.equal(found[way][others], expected[way][others]), way


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_hard_negatives_of_scores_that_are_not_finite_are_still_wrong_labels(bad):
    labels, logits = torch.arange(60) % 3, torch.zeros(60, 3)
    plain = hard_wrong(labels, logits, chance(0))
    logits[7] = bad
    found = hard_wrong(labels, logits, chance(0))
    assert (found != labels).all()
    assert ((found >= 0) & (found < 3)).all()
    assert torch.equal(found[:7], plain[:7])


def test_features_that_are_not_finite_have_no_solution():
    equations, head = NormalEquations(bias=True, ridge=1.0), nn.Linear(4, 3)
    before = head.weight.clone()
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    features[3, 2] = math.inf
    equations.add(features, one_hot(torch.arange(20) % 3))
    with pytest.raises(bpfree.BpfreeError, match="not finite"):
        equations.solve(head)
    assert torch.equal(head.weight, before)


def test_a_budget_whose_unit_an_epoch_is_too_short_for_does_not_divide_by_zero():
    stage = Stage("s", losses=lambda *_: iter(()))
    length = Length.of([stage], [], 7, Budget("measured_j", 5.0))
    rows = [{"train_measured_j": 0.0, "val_measured_j": 0.0}]
    assert length.cap(rows) == 7
    rows.append({"train_measured_j": 2.0, "val_measured_j": 0.0})
    assert length.cap(rows) == 5
