"""Whatever the calling process has set of torch and numpy, an outcome is the same to the bit, and so are the
settings afterwards."""

import contextlib
import random
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import arm, for_epochs, same, toy
from torch.overrides import TorchFunctionMode

import bpfree
from bpfree import diagnostics
from bpfree.algorithms import ARMS, CascadedForward
from bpfree.algorithms.networks import CaFoCNN
from bpfree.diagnostics import landscape
from bpfree.experiments import experiment, runner
from bpfree.training.history import OUTCOME
from bpfree.training.loop import train
from bpfree.training.numerics import pinned

BACKENDS = (
    *("cudnn.enabled", "cudnn.benchmark", "cudnn.deterministic", "cudnn.allow_tf32", "mkldnn.enabled"),
    *("mkldnn.deterministic", "cuda.matmul.allow_tf32", "fp32_precision", "cudnn.fp32_precision"),
    *("cuda.matmul.fp32_precision", "cudnn.conv.fp32_precision", "mkldnn.fp32_precision"),
    *("mkldnn.matmul.fp32_precision", "mkldnn.conv.fp32_precision"),
    "cuda.matmul.allow_bf16_reduced_precision_reduction",
)


@pytest.fixture(scope="module", autouse=True)
def _first_optimiser():
    """With a process's first one torch imports its compiler, which adds filters of warnings."""
    train(arm("bp"), toy(), max_epochs=1, progress=False)


class Doubling(TorchFunctionMode):
    """A mode that makes every product twice what it is."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        return 2 * out if func is torch.nn.functional.linear else out


@contextlib.contextmanager
def set_for_a_while(write, value, usual):
    write(value)
    try:
        yield
    finally:
        write(usual)


def backend(name, value):
    """An attribute of torch.backends that this torch may not have."""

    @contextlib.contextmanager
    def setting():
        *path, last = name.split(".")
        owner = torch.backends
        for part in path:
            owner = getattr(owner, part, None)
        if not hasattr(owner, last):
            pytest.skip(f"this torch has no torch.backends.{name}")
        usual = getattr(owner, last)
        with set_for_a_while(lambda v: setattr(owner, last, v), value, usual):
            yield

    return setting


def autocast_and_its_cache():
    """An autocast that has cast weights already, and keeps them."""
    stack = contextlib.ExitStack()
    stack.enter_context(torch.autocast("cpu", torch.bfloat16))
    stack.enter_context(torch.autocast("cpu", torch.bfloat16))
    return stack


@contextlib.contextmanager
def warned_always():
    with warnings.catch_warnings(), set_for_a_while(torch.set_warn_always, True, False):
        warnings.simplefilter("error")
        yield


HOSTILE = {
    "autocast": autocast_and_its_cache,
    "autocast of CUDA": lambda: set_for_a_while(
        lambda on: torch.set_autocast_enabled("cuda", on), True, False
    ),
    "autocast's cache off": lambda: set_for_a_while(torch.set_autocast_cache_enabled, False, True),
    "float64": lambda: set_for_a_while(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": lambda: set_for_a_while(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "default device": lambda: set_for_a_while(torch.set_default_device, "meta", None),
    "device's context": lambda: torch.device("meta"),
    "a mode": Doubling,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "deterministic": lambda: set_for_a_while(torch.use_deterministic_algorithms, True, False),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "flushing": lambda: set_for_a_while(torch.set_flush_denormal, True, False),
    "errstate": lambda: np.errstate(all="raise"),
    "warnings": warned_always,
    "saved on the CPU": torch.autograd.graph.save_on_cpu,
    "medium": lambda: set_for_a_while(torch.set_float32_matmul_precision, "medium", "highest"),
    "TF32": backend("cuda.matmul.allow_tf32", True),
    "no TF32 in convolutions": backend("cudnn.allow_tf32", False),
    "all in TF32": backend("fp32_precision", "tf32"),
    "products in bf16": backend("mkldnn.matmul.fp32_precision", "bf16"),
    "convolutions in bf16": backend("mkldnn.conv.fp32_precision", "bf16"),
    "convolutions of cuDNN": backend("cudnn.conv.fp32_precision", "ieee"),
    "products of cuBLAS": backend("cuda.matmul.fp32_precision", "tf32"),
    "no cuDNN": backend("cudnn.enabled", False),
    "benchmark": backend("cudnn.benchmark", True),
    "no oneDNN": backend("mkldnn.enabled", False),
    "deterministic oneDNN": backend("mkldnn.deterministic", True),
}


def tried(read):
    """What a getter says; torch refuses to read what was set by its old name and by its new one."""
    try:
        return read()
    except (AttributeError, RuntimeError) as error:
        return type(error)


def state():
    """Everything that a process can have set, as plain values."""
    depth = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    found = {
        "autocast": [tried(lambda d=d: torch.is_autocast_enabled(d)) for d in ("cpu", "cuda", "mps")],
        "autocast dtype": [torch.get_autocast_dtype(d) for d in ("cpu", "cuda")],
        "cache": (torch.is_autocast_cache_enabled(), depth),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "modes": len(torch.overrides._get_current_function_mode_stack()),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "anomaly": torch.is_anomaly_enabled(),
        "deterministic": torch.get_deterministic_debug_mode(),
        "flushing": sys.float_info.min * 0.5 == 0.0,
        "products": tried(torch.get_float32_matmul_precision),
        "linalg": torch.backends.cuda.preferred_linalg_library(),
        "errstate": np.geterr(),
        "filters": list(warnings.filters),
        "random": (random.getstate(), np.random.get_state()[1].tolist()),  # noqa: NPY002
        "torch random": torch.get_rng_state().tolist() if torch.get_default_device().type == "cpu" else None,
    }
    for name in BACKENDS:
        *path, last = name.split(".")
        owner = torch.backends
        for part in path:
            owner = getattr(owner, part, None)
        found[name] = tried(lambda owner=owner, last=last: getattr(owner, last))
    return found


@contextlib.contextmanager
def unchanged():
    before = state()
    yield
    after = state()
    assert {k for k in before if before[k] != after[k]} == set()


def everything(name="mf", precision="fp32"):
    """All that computes an outcome, on data that were loaded where it is: as plain values."""
    data = bpfree.load("digits")
    data = replace(data, x_train=data.x_train[:96], y_train=data.y_train[:96])
    network = (
        CaFoCNN(data.shape, classes=10, channels=(4, 8))
        if name.startswith("cafo")
        else bpfree.MLP([64, 16, 12], classes=10)
    )
    algorithm = ARMS[name].make(network, batch_size=32)
    history = train(algorithm, data, precision=precision, progress=False, **for_epochs(algorithm, 2))
    scores = algorithm.predict_all(data.x_test)
    assert not any(s.is_inference() or s.requires_grad for s in scores.values())
    return {
        "data": [tensor.tolist() for tensor in (data.x_val[:9], data.x_test[:9])],
        "weights": {k: v.tolist() for k, v in algorithm.state_dict().items()},
        "history": history.frame()[list(OUTCOME)].to_csv(),
        "scores": {k: v.tolist() for k, v in scores.items()},
        "outcome": runner.outcome(algorithm, history, data),
    }


USUAL = {}


def usual(*what):
    if what not in USUAL:
        USUAL[what] = everything(*what)
    return USUAL[what]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_in_any_surroundings_an_outcome_is_the_same_to_the_bit_and_they_stay(hostile):
    for what in (("mf", "bf16"), ("cafo_dfa",)):
        expected = usual(*what)
        with HOSTILE[hostile](), unchanged():
            found = everything(*what)
        assert found == expected, what


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_is_the_same_in_the_worst_surroundings(name):
    expected = usual(name)
    worst = (
        "autocast",
        "float64",
        "default device",
        "inference_mode",
        "anomaly",
        "flushing",
        "deterministic",
    )
    with contextlib.ExitStack() as stack:
        for hostile in worst:
            stack.enter_context(HOSTILE[hostile]())
        stack.enter_context(unchanged())
        assert everything(name) == expected


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_is_looked_up_of_a_trained_network_is_the_same_too(hostile):
    def looked_up():
        step = landscape.direction(bp, data)
        tables = [
            landscape.along(bp, data, step, [0.0, 0.5]),
            landscape.sharpness(bp, data, samples=30, max_iterations=3),
            landscape.gap(landscape.rescaled(bp, 2.0), data),
            diagnostics.flops(bp, data),
            diagnostics.account(solved, data),
            bpfree.gradient_reach(bp, data.x_val, data.y_val),
            pd.Series(bpfree.alignment(ff, data.x_val, data.y_val)),
        ]
        return [table.to_dict() for table in tables]

    data, bp, solved = toy(), arm("bp"), CascadedForward(bpfree.MLP([12, 5], classes=3))
    ff = arm("ff")
    for algorithm in (bp, ff):
        train(algorithm, data, max_epochs=2, progress=False)
    expected = looked_up()
    with HOSTILE[hostile](), unchanged():
        found = looked_up()
    assert repr(found) == repr(expected)


@pytest.mark.parametrize("hostile", ["autocast", "float64", "inference_mode"])
def test_a_record_of_hostile_surroundings_is_that_of_any_other(hostile, tmp_path):
    what = bpfree.Experiment("mf", "digits", architecture="2x12", max_epochs=1)
    expected = bpfree.run(what, tmp_path / "usual", progress=False)
    with HOSTILE[hostile](), unchanged():
        record = bpfree.run(what, tmp_path / "hostile", progress=False)
        data = bpfree.load("digits")
        scores = experiment.trained(record, data).predict(data.x_test)
    assert (record.key, record.metrics) == (expected.key, expected.metrics)
    assert same(record.weights(), expected.weights())
    usual_scores = experiment.trained(expected, data).predict(data.x_test)
    assert torch.equal(scores, usual_scores)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_everything_is_as_it_was_when_training_fails(hostile):
    data = toy()
    with HOSTILE[hostile](), unchanged(), pytest.raises(bpfree.TrainingDiverged):
        train(arm("mf", lr=1e30, optimiser="sgd"), data, progress=False)


def test_pinned_is_within_pinned_and_what_was_set_between_them_too():
    with pinned(flush=True), torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        with pinned():
            product = torch.ones(2, 2, requires_grad=True) @ torch.ones(2, 2)
            assert product.dtype == torch.float32
            assert product.requires_grad
            assert sys.float_info.min * 0.5 > 0.0
        assert sys.float_info.min * 0.5 == 0.0
        product = torch.ones(2, 2, requires_grad=True) @ torch.ones(2, 2)
        assert (product.dtype, product.requires_grad) == (torch.bfloat16, False)


@pytest.mark.skipif(sys.platform != "linux", reason="on the calling thread alone there")
def test_a_caller_who_flushes_on_one_thread_gets_the_others_back_as_they_were():
    code = """
import torch
from bpfree.training.numerics import flushed
torch.set_num_threads(2)

def left():
    tiny = torch.full((1 << 20,), 2e-38)
    return int((tiny * 0.1).count_nonzero())

whole = left()  # which also starts the threads
torch.set_flush_denormal(True)  # of this thread alone
half = left()
with flushed():
    inside = left()
with flushed(False):
    outside = left()
print(whole, half, inside, outside, left() == half)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    whole, half, inside, outside, back = done.stdout.split()
    assert 0 < int(half) < int(whole) == int(outside) == 1 << 20
    assert (inside, back) == ("0", "True")
