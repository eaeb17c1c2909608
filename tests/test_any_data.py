"""Every chapter on a user's own data, and on a machine that is slow, busy and has one thread to give."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import run_all

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _store_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("BPFREE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the kernels


def own_file(folder: Path, shape: tuple[int, ...], labels: tuple[int, ...], noise: float) -> Path:
    """240 training and 80 test samples around a centre for each label, as uint8 if they are images."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    y = rng.choice(labels, size=320)
    x = rng.normal(size=(max(labels) + 1, *shape))[y] + noise * rng.normal(size=(320, *shape))
    if len(shape) > 1:
        x = np.clip(128 + 40 * x, 0, 255).astype("uint8")
    np.savez(folder / "own.npz", x_train=x[:240], y_train=y[:240], x_test=x[240:], y_test=y[240:])
    return folder / "own.npz"


def execute(*options: object) -> list[str]:
    """Every chapter, however the others end. Returns what failed, in run_all.py's words."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run_all.main([*map(str, options)])
    failed = [line for line in err.getvalue().splitlines() if "failed in" in line]
    assert status == (1 if failed else 0), err.getvalue()
    assert out.getvalue().count(": ok,") + len(failed) == len(
        [*Path(run_all.__file__).with_name("notebooks").glob("*.ipynb")]
    )
    return failed


@pytest.mark.parametrize(
    ("shape", "labels", "noise"),
    [
        pytest.param((8, 8), (0, 1, 2), 2.0, id="three classes"),
        pytest.param((8, 8), (0, 1), 0.0, id="two classes, learned without an error"),
        pytest.param((9, 8, 3), (0, 2, 5), 2.0, id="colour, and labels with gaps"),
        pytest.param((12,), (0, 1, 2, 3), 1.0, id="vectors"),
        pytest.param((4,), (*range(6),), 50.0, id="vectors too short for the label, and nothing to learn"),
    ],
)
def test_every_chapter_runs_on_own_data(tmp_path, shape, labels, noise):
    own = own_file(tmp_path / "own data, ä $x$", shape, labels, noise)
    assert not execute("--datasets", own, "--seeds", 5, "--output", tmp_path / "results")


def test_every_chapter_runs_on_one_thread_of_a_machine_that_others_keep_busy(tmp_path):
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
    try:
        assert not execute("--output", tmp_path, "--seeds", 11)
    finally:
        for other in others:
            other.kill()
            other.wait()
