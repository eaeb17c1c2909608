"""Experiments: names are checked at once, keys are the content, and what was run is not run again."""

import json
import os
import shutil
from dataclasses import FrozenInstanceError, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import same
from sklearn.metrics import accuracy_score, log_loss

import bpfree
from bpfree.algorithms import ARMS, Algorithm
from bpfree.algorithms.networks import MLP, CaFoCNN
from bpfree.errors import InvalidInput, MissingData, TrainingDiverged
from bpfree.evidence.evidence import recorded_runs
from bpfree.experiments import experiment as module
from bpfree.experiments import runner, study
from bpfree.experiments.experiment import Experiment, build, build_model, parse_architecture, trained
from bpfree.experiments.machine import environment_line, machine
from bpfree.experiments.published import hyperparameters
from bpfree.experiments.resolved import Resolved
from bpfree.experiments.runner import run, run_many
from bpfree.experiments.store import Store, records
from bpfree.experiments.study import PROFILES
from bpfree.training import Stopping, train
from bpfree.training.stopping import Budget

SMALL = {"data": "digits", "architecture": "2x8", "max_epochs": 2, "device": "cpu"}
STUB = SimpleNamespace(sha256="0" * 64, features=64, classes=10, shape=(1, 8, 8), name="digits")


def small(algorithm="mf", **changes) -> Experiment:
    return Experiment(algorithm, **{**SMALL, **changes})


def key(experiment: Experiment, data=STUB) -> str:
    return experiment.resolve(data).key


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def digits():
    return bpfree.load("digits", seed=0)


@pytest.fixture(scope="module")
def record(store):
    """One run of Mono-Forward on the digits, two epochs a stage."""
    return run(small(), store, progress=False)


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(module, "train", refuse)


# ---------------------------------------------------------------- the value


def test_an_experiment_is_a_frozen_value():
    one, two = small(options={"predict_by": "sum"}), small(options={"predict_by": "sum"})
    assert one == two
    assert hash(one) == hash(two)
    assert len({one, two, small()}) == 2
    with pytest.raises(FrozenInstanceError):
        one.seed = 3


@pytest.mark.parametrize("same", [(1, 1.0), (0, -0.0), (0.5, 0.5)])
def test_a_number_is_the_same_however_it_is_written(same):
    one, two = (small(hyperparameters={"lr": 0.1, "weight_decay": value}) for value in same)
    assert one == two
    assert hash(one) == hash(two)
    assert key(one) == key(two)
    assert key(one) != key(small(hyperparameters={"lr": 0.1, "weight_decay": 0.25}))


def test_the_key_is_the_content_and_not_its_spelling():
    first, second = {"lr": 0.1, "weight_decay": 0.2}, {"weight_decay": 0.2, "lr": 0.1}
    same_runs = [
        (small(hyperparameters=first), small(hyperparameters=second)),
        (small(hyperparameters=first), small(options=first)),
        (small(), small(options={"predict_by": "last"})),  # a default, spelled out
        (Experiment("mf", device="cpu"), Experiment("mf", architecture="2x256", device="cpu")),
        (
            Experiment("mf", device="cpu"),
            Experiment("mf", max_epochs=100, device="cpu"),
        ),  # the protocol's cap
    ]
    for one, two in same_runs:
        assert key(one) == key(two)
    assert len(key(small())) == 64
    plain = small(protocol="matched").resolve(STUB, Budget("passes", 4))
    assert Resolved.of(json.loads(json.dumps(plain.plain()))) == plain


def test_the_key_changes_with_everything_that_decides_the_outcome(monkeypatch):
    changes = [
        {},
        {"algorithm": "mf_interleaved"},
        {"algorithm": "bp"},
        {"seed": 1},
        {"architecture": "2x9"},
        {"architecture": "8-8-8"},
        {"preset": "thesis"},  # Adam for AdamW
        {"options": {"predict_by": "sum"}},
        {"hyperparameters": {"lr": 0.5}},
        {"hyperparameters": {"batch_size": 64}},
        {"max_epochs": 3},
        {"precision": "bf16"},
        {"cache": False},
    ]
    keys = [key(small(**change)) for change in changes]
    keys.append(key(small(), SimpleNamespace(sha256="1" * 64)))  # the same name, other pixels
    monkeypatch.setattr(module, "TRAINING_VERSION", module.TRAINING_VERSION + 1)
    keys.append(key(small()))
    assert len(set(keys)) == len(changes) + 2


def test_what_the_protocol_says_is_part_of_the_key():
    common = {"algorithm": "mf", "data": "fashion_mnist", "device": "cpu"}
    protocols = [
        Experiment(protocol=protocol, **common).resolve(STUB) for protocol in ("published", "convergence")
    ]
    assert protocols[0].key != protocols[1].key
    assert protocols[0].options["epochs"] == 12
    assert protocols[0].max_epochs is None
    assert (protocols[1].options["epochs"], protocols[1].max_epochs) == (None, 100)


def test_choices_take_precedence_from_the_general_to_the_particular():
    options = Experiment("mf", "fashion_mnist", preset="2026", device="cpu").resolve(STUB).options
    assert options["input_projection"] is True  # the preset's choice over the default
    assert options["optimiser"] == "adam"
    published = dict(
        hyperparameters(source="2026", algorithm="mf", data="fashion_mnist")[["parameter", "value"]].values
    )
    assert options["lr"] == published["lr"]  # published over the preset
    own = Experiment(
        "mf", "fashion_mnist", preset="2026", hyperparameters={"lr": 0.5}, options={"input_projection": False}
    )
    assert own.resolve(STUB).options["lr"] == 0.5
    assert own.resolve(STUB).options["input_projection"] is False
    # What makes the arm what it is stands above its preset.
    reference = Experiment("mf", preset="reference", device="cpu").resolve(STUB).options
    assert (reference["schedule"], reference["lr_schedule"]) == ("sequential", "step")


def test_architectures_are_the_papers_unless_given():
    chosen = {
        ("mf", "digits"): "2x256",
        ("mf", "fashion_mnist"): "2x1000",
        ("bp", "cifar10"): "3x2000",
        ("cafo_rand", "mnist"): "cnn",
        ("mf", "mine.npz"): "2x1000",
    }
    for (algorithm, data), architecture in chosen.items():
        assert Experiment(algorithm, data).resolved_architecture == architecture
    assert parse_architecture("3x20") == ("mlp", [20, 20, 20])
    assert parse_architecture("30-20") == ("mlp", [30, 20])
    assert parse_architecture("7") == ("mlp", [7])
    assert parse_architecture("cnn") == ("cnn", [])
    assert parse_architecture("cnn-8-16") == ("cnn", [8, 16])
    assert build_model("cnn-8-16", STUB).features == [8 * 4 * 4, 16 * 2 * 2]
    mlp = build_model("30-20", STUB)
    assert isinstance(mlp, MLP)
    assert (mlp.inputs, mlp.features, mlp.classes) == (64, [30, 20], 10)
    assert isinstance(build_model("cnn", STUB), CaFoCNN)


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_can_be_built_and_says_what_it_is(name):
    architecture = "cnn" if name.startswith("cafo") else "2x8"
    resolved = Experiment(name, device="cpu", architecture=architecture).resolve(STUB)
    algorithm = build(resolved, STUB)
    assert isinstance(algorithm, Algorithm)
    assert algorithm.stages()
    assert algorithm.name == name  # one class, several arms: each has its own name


def test_every_published_arm_can_be_built_under_its_own_protocol():
    table = hyperparameters(source="thesis")
    table = table[table["parameter"].str.startswith("stopping.") & table["algorithm"].isin(ARMS)]
    arms = sorted({tuple(row) for row in table[["algorithm", "data", "architecture"]].values})
    assert len(arms) >= 12
    shapes = {"cifar10": (3, 32, 32), "cifar100": (3, 32, 32)}
    for algorithm, data, architecture in arms:
        shape = shapes.get(data, (1, 28, 28))
        stub = SimpleNamespace(
            sha256="0" * 64,
            shape=shape,
            features=int(np.prod(shape)),
            classes=100 if data == "cifar100" else 10,
        )
        resolved = Experiment(algorithm, data, architecture=architecture, protocol="published").resolve(stub)
        with torch.device("meta"):  # shapes only
            build(resolved, stub)
        assert isinstance(resolved.stopping, Stopping)


def test_profiles_ask_for_what_exists():
    assert set(PROFILES) == {"quick", "laptop", "paper", "evidence"}
    for profile in PROFILES.values():
        for data in profile.datasets:
            Experiment("mf", data, seed=profile.seeds[0], max_epochs=profile.max_epochs)
    assert PROFILES["quick"].datasets == ("digits",)  # offline
    assert PROFILES["paper"].max_epochs is None


# ---------------------------------------------------------------- running it


def test_a_run_is_recorded_with_outcome_cost_and_machine(record, store):
    assert record.status == "finished"
    assert record.key in store
    assert record.metrics["epochs"] == 4
    assert record.metrics["samples"] == record.history["samples"].sum() == 4 * 1280  # 1294 in batches of 128
    assert record.history["stage"].tolist() == ["layer 1", "layer 1", "layer 2", "layer 2"]
    assert [s["prefix"] for s in record.stages] == ["images", "cached in memory"]
    kept = record.stages[1]["restored"]
    assert record.metrics["val_accuracy"] == record.history["val_accuracy"][1 + kept]
    total = sum(record.cost[f"{region}_s"] for region in ("prefix", "train", "val"))
    assert record.cost["total_s"] == pytest.approx(total)
    assert record.epoch_cost["train_s"].sum() == pytest.approx(record.cost["train_s"])
    assert record.machine["threads"] == torch.get_num_threads()
    assert record.experiment.data_sha256 == bpfree.load("digits").sha256
    assert "estimated" in record.provenance or "measured" in record.provenance


def test_test_metrics_are_those_of_an_independent_computation(record, digits):
    algorithm = trained(record, digits)
    scores = algorithm.predict_all(digits.x_test)
    for name, s in {"": scores["last"], "[last]": scores["last"], "[sum]": scores["sum"]}.items():
        accuracy = 100 * accuracy_score(digits.y_test, s.argmax(1))
        assert record.metrics[f"test_accuracy{name}"] == pytest.approx(accuracy, rel=1e-12)
        loss = log_loss(digits.y_test, s.double().softmax(1))
        assert record.metrics[f"test_loss{name}"] == pytest.approx(loss, rel=1e-5)
    assert record.metrics["test_accuracy[layer 1]"] != record.metrics["test_accuracy[layer 2]"]


@pytest.mark.parametrize(
    "experiment",
    [
        small(),
        small(options={"predict_by": "sum"}),
        small("mf_interleaved", options={"predict_by": "sum"}),
        small("ff"),
        small("cafo_rand", architecture="cnn-4-4"),
        small("cafo_rand_mse", architecture="cnn-4-4"),
        small("asge_like", architecture="cnn-4-4", options={"predict_by": "fusion"}),
    ],
    ids=lambda e: f"{e.algorithm} {dict(e.options)}",
)
def test_validation_is_by_what_the_algorithm_predicts(experiment, digits, tmp_path):
    record = run(experiment, Store(tmp_path), progress=False)
    scores = trained(record, digits).predict(digits.x_val)
    accuracy = 100 * accuracy_score(digits.y_val, scores.argmax(1))
    assert record.metrics["val_accuracy"] == pytest.approx(accuracy, rel=1e-12)
    loss = log_loss(digits.y_val, scores.double().softmax(1), labels=range(10))
    assert record.metrics["val_loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    ("algorithm", "preset"), [("bp", "gong"), ("mf_interleaved", "gong"), ("ff", "reference")]
)
def test_a_budget_is_spent_however_many_epochs_the_preset_has(algorithm, preset, digits):
    own = ARMS[algorithm].algorithm.presets[preset]["epochs"]
    given = small(algorithm, preset=preset, protocol="frontier", max_epochs=own + 6)
    one_batch = replace(digits, **{f"{a}_train": getattr(digits, f"{a}_train")[:128] for a in "xy"})
    assert module.fit(given, one_batch, progress=False)[1].epochs == own + 6


def test_the_stored_weights_are_the_trained_ones(record, digits):
    algorithm = build(record.experiment, digits)
    train(algorithm, digits, seed=0, max_epochs=2, device="cpu", progress=False)
    assert same(algorithm.state_dict(), record.weights())
    again = trained(record, digits)
    assert not again.training
    assert torch.equal(again.predict(digits.x_test), algorithm.predict(digits.x_test))


def test_the_second_run_reads_what_the_first_has_stored(record, store, no_training):
    again = run(small(), store, progress=False)
    assert (again.key, again.metrics, again.cost) == (record.key, record.metrics, record.cost)
    run(small(options={"predict_by": "last"}), str(store.root))  # the same, spelled otherwise
    with pytest.raises(AssertionError, match="trained again"):
        run(small(seed=1), store)


def test_another_training_version_is_another_run(record, store, monkeypatch, no_training):
    monkeypatch.setattr(module, "TRAINING_VERSION", module.TRAINING_VERSION + 1)
    with pytest.raises(AssertionError, match="trained again"):
        run(small(), store)


def test_test_data_cannot_influence_training(record, digits, tmp_path, monkeypatch):
    poisoned = replace(digits, x_test=torch.full_like(digits.x_test, float("nan")))
    monkeypatch.setattr(runner, "loaded", lambda *_: poisoned)
    other = run(small(), tmp_path, progress=False)
    assert other.key == record.key
    assert same(other.weights(), record.weights())
    assert other.history.equals(record.history)
    assert other.metrics["test_loss"] != record.metrics["test_loss"]  # it is read in the end


def test_test_data_are_read_once_and_after_training(digits, tmp_path, monkeypatch):
    events = []
    plain_train, plain_predict = module.train, Algorithm.predict_all
    monkeypatch.setattr(runner, "loaded", lambda *_: digits)
    monkeypatch.setattr(module, "train", lambda *a, **k: (plain_train(*a, **k), events.append("trained"))[0])

    def predict_all(self, x):
        events.append("test data" if x is digits.x_test else "other data")
        return plain_predict(self, x)

    monkeypatch.setattr(Algorithm, "predict_all", predict_all)
    run(small("bp", max_epochs=1), tmp_path, progress=False)
    assert events[:2] == ["trained", "test data"]
    assert events.count("test data") == 1  # operations are counted on a training batch


# ---------------------------------------------------------------- protocols with a budget


@pytest.mark.parametrize("algorithm", ["mf", "mf_joint", "ff"])
def test_matched_has_the_passes_that_bp_took_under_convergence(algorithm, store):
    matched = small(algorithm, protocol="matched", max_epochs=5)
    record = run(matched, store, progress=False)
    reference = run(matched.reference(), store, progress=False)
    assert (reference.experiment.algorithm, reference.experiment.protocol) == ("bp", "convergence")
    assert reference.metrics["epochs"] == 5
    assert record.experiment.budget == Budget("passes", 5)
    assert {s["ended"] for s in record.stages} == {"budget"}
    assert record.metrics["epochs"] == {"mf": 6}.get(algorithm, 5)  # two stages of three


def test_bp_under_its_own_budget_is_bp(store):
    matched = small("bp", protocol="matched", max_epochs=3)
    one, two = (run(e, store, progress=False) for e in (matched, matched.reference()))
    assert one.key != two.key
    assert same(one.weights(), two.weights())


def test_equal_energy_has_the_seconds_or_the_joules_that_bp_spent(store, monkeypatch):
    record = run(small(protocol="equal_energy", max_epochs=50), store, progress=False)
    reference = run(small("bp", max_epochs=50), store, progress=False)
    assert record.experiment.budget == Budget("s", reference.cost["total_s"])
    spent = record.epoch_cost[["prefix_s", "train_s", "val_s"]].fillna(0.0).sum(axis=1)
    assert record.cost["total_s"] == pytest.approx(reference.cost["total_s"], abs=spent.max())
    metered = replace(reference, cost={**reference.cost, "total_measured_j": 12.5})
    assert runner.spent(metered, "energy") == Budget("measured_j", 12.5)
    partly = replace(reference, cost={**reference.cost, "train_measured_j": 12.5})  # validation's are lost
    assert runner.spent(partly, "energy") == Budget("s", reference.cost["total_s"])


def test_a_budget_is_part_of_the_content(store):
    data = bpfree.load("digits", seed=0)
    matched = small(protocol="matched")
    keys = {matched.resolve(data, Budget("passes", n)).key for n in (4, 5)}
    assert len(keys) == 2
    for experiment, budget in ((matched, None), (small(), Budget("passes", 4))):
        with pytest.raises(InvalidInput, match=r"use bpfree\.run"):
            experiment.resolve(data, budget)


def test_the_reference_has_the_presets_that_bp_has():
    assert small(protocol="matched", preset="2026").reference().preset == "2026"
    assert small("mf_interleaved", protocol="matched", preset="reference").reference().preset is None
    assert small().reference() is None


# ---------------------------------------------------------------- what a run leaves


def test_fit_trains_the_same_and_leaves_the_test_data_alone(record, digits):
    unseen = replace(digits, x_test=None, y_test=None)
    algorithm, history = module.fit(small(), unseen, progress=False)
    assert same(algorithm.state_dict(), record.weights())
    assert history.epochs == record.metrics["epochs"]


def test_a_record_knows_its_operations_its_bytes_and_what_the_machine_did(record, digits):
    """Mono-Forward 64-8-8, two epochs a stage, by hand: see tests/test_hardware.py for the parts."""
    images, val = len(digits.x_train) // 128 * 128, len(digits.x_val)
    first, second, head = 2 * 64 * 8, 2 * 8 * 8, 2 * 8 * 10
    products = 2 * images * (2 * first + second * 2 + 2 * 3 * head)
    extras = record.cost["train_flop"] / products - 1  # elementwise and optimiser, by formula
    assert 0 < extras < 0.5
    assert record.cost["val_flop"] == 2 * val * (first + second + 2 * head)
    filled = [-(-len(digits.x_train) // 128) * 128, val]
    assert record.cost["prefix_flop"] == sum(filled) * first  # once, since it is cached
    parts = ("prefix_flop", "train_flop", "val_flop")
    assert record.cost["total_flop"] == sum(record.cost[part] for part in parts)
    assert 0 < record.cost["graph_bytes"] < record.cost["memory_bytes"]
    assert list(record.trace.columns) == ["time_s", "channel", "quantity", "value", "unit", "stage"]
    assert set(record.trace["stage"]) <= {"layer 1", "layer 2"}
    assert len(record.trace)


def test_a_recomputed_prefix_is_paid_in_every_epoch(store, record):
    again = run(small(cache=False), store, progress=False)
    assert again.cost["train_flop"] == record.cost["train_flop"]
    assert again.cost["prefix_flop"] == pytest.approx(2 * record.cost["prefix_flop"], rel=0.15)


def test_a_run_that_diverges_is_kept_as_failed_and_not_tried_again(tmp_path, monkeypatch):
    diverging = small("bp", options={"optimiser": "sgd"}, hyperparameters={"lr": 1e30})
    with pytest.raises(TrainingDiverged) as raised:
        run(diverging, tmp_path, progress=False)
    (stored,) = Store(tmp_path)
    record = Store(tmp_path).read(stored)
    assert record.status == "failed"
    assert record.error == {"stage": "network", "epoch": 1, "lr": 1e30}
    assert record.metrics == {}
    assert len(record.history) == 1  # nothing is lost: what was trained until then
    assert record.cost["train_s"] > 0
    table = records(tmp_path).set_index("metric")
    assert table.loc["failed", "value"] == 1.0
    assert set(table["status"]) == {"failed"}
    with pytest.raises(InvalidInput, match="has no weights"):
        record.weights()

    def refuse(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(module, "train", refuse)
    with pytest.raises(TrainingDiverged) as again:
        run(diverging, tmp_path, progress=False)
    assert str(again.value) == str(raised.value)


def test_an_interrupted_run_stores_nothing(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(small(), tmp_path, progress=False)
    assert list(Store(tmp_path)) == []
    assert {path.name for path in tmp_path.iterdir()} == {"locks"}


def test_weights_are_left_out_on_request_and_then_said_to_be_missing(tmp_path, digits):
    record = run(small("bp", max_epochs=1), tmp_path, progress=False, keep_weights=False)
    with pytest.raises(InvalidInput, match="keep_weights=True"):
        trained(record, digits)


def own_data(path, shift=0.0):
    rng = np.random.default_rng(0)
    x, y = rng.random((60, 6)) + shift, np.arange(60) % 3
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    return path


def test_a_users_own_data_are_known_by_their_content(tmp_path):
    """And not by the date or the size of the file, which may be the same."""
    path = own_data(tmp_path / "mine.npz")
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    experiment = Experiment("bp", str(path), architecture="1x4", max_epochs=1, device="cpu")
    keys = []
    for shift in (0, 0, 1):
        own_data(path, shift)
        os.utime(path, ns=times)
        keys.append(run(experiment, tmp_path / "store", progress=False).key)
    assert keys[0] == keys[1] != keys[2]


def test_a_users_own_file_is_one_data_set_however_its_path_is_spelled(tmp_path, monkeypatch):
    """What is stored has one spelling; what is said has the user's."""
    path = own_data(tmp_path / "own.npz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link.npz").symlink_to(path)
    spellings = ("own.npz", "./own.npz", str(path), f"{tmp_path}/../{tmp_path.name}/own.npz", "~/own.npz")
    experiments = [
        Experiment("bp", data, architecture="1x4", max_epochs=1, device="cpu")
        for data in (*spellings, "link.npz")
    ]
    found = run_many(experiments, tmp_path / "store", progress=False)
    assert len({record.key for record in found}) == 1
    assert set(records(tmp_path / "store")["data"]) == {str(path)}
    assert len(recorded_runs(Store(tmp_path / "store"))(experiments)) == 1
    assert study.profile("quick", spellings[:2]).datasets == (str(path), str(path))
    path.unlink()
    with pytest.raises(MissingData, match=r"no file ~/own\.npz|no file own\.npz"):
        run(experiments[0], tmp_path / "store", progress=False)


def test_weights_are_not_put_before_data_that_they_were_not_trained_on(tmp_path, digits):
    path = own_data(tmp_path / "own.npz")
    experiment = Experiment("bp", str(path), architecture="1x4", max_epochs=1, device="cpu")
    record = run(experiment, tmp_path / "store", progress=False)
    trained(record, bpfree.load(path))
    own_data(path, 1)
    for data in (bpfree.load(path), digits):
        with pytest.raises(InvalidInput, match=r"own\.npz when that held other data") as raised:
            trained(record, data)
        assert "\n" not in str(raised.value)


def test_weights_of_another_network_are_refused(tmp_path, digits):
    record, other = (run(small("bp", architecture=a), tmp_path, progress=False) for a in ("2x8", "2x7"))
    shutil.copy(other.folder / "weights.safetensors", record.folder)
    with pytest.raises(InvalidInput, match=r"weights\.safetensors is not what was written"):
        trained(record, digits)
    (record.folder / "SHA256SUMS").unlink()  # as if from before there were checksums
    with pytest.raises(InvalidInput, match="are of another network") as raised:
        trained(record, digits)
    assert str(record.folder) in str(raised.value)
    assert "\n" not in str(raised.value)


# ---------------------------------------------------------------- the machine


def test_the_machine_is_known_by_what_costs_depend_on(monkeypatch):
    here = machine("cpu")
    json.dumps(here)
    assert (here["torch"], here["threads"]) == (torch.__version__, torch.get_num_threads())
    assert (here["device"], here["accelerator"]) == ("cpu", None)
    assert machine("cpu") == here
    monkeypatch.setattr(torch, "get_num_threads", lambda: here["threads"] + 1)
    assert machine("cpu")["id"] != here["id"]
    monkeypatch.undo()
    monkeypatch.setattr("bpfree.experiments.machine.git_revision", lambda: "another revision")
    assert machine("cpu")["id"] == here["id"]  # the code is not the machine
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    assert (
        machine("cuda")["executor"] == "graph"
    )  # so that its costs are not pooled with those of older records
    assert "executor" not in here


def test_the_line_under_a_notebook_names_versions_and_hardware():
    line = environment_line()
    assert "\n" not in line
    assert torch.__version__ in line
    assert "Python" in line
