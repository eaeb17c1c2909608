"""The package as it is installed: what is in the wheel, that it is enough, and which Pythons it is for."""

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = [(3, 11), (3, 12), (3, 13)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built by the back end that `pip install` uses, which is installed: nothing is fetched for it."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.iterdir()
    return path


def test_the_wheel_has_every_module_and_table_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    own = {p for p in (ROOT / "bpfree").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert names == {p.relative_to(ROOT).as_posix() for p in own}
    assert {"bpfree/experiments/tuned.csv", "bpfree/experiments/published/results.csv"} < names
    assert {Path(name).suffix for name in names} == {".py", ".pyi", ".typed", ".csv", ".j2"}


@pytest.mark.parametrize("room", ["bpfree", "bpfree.training", "bpfree.tuning"])
def test_every_name_that_a_stub_promises_is_there(room):
    module = importlib.import_module(room)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert len(module.__all__) > 10


def test_its_metadata_say_what_it_needs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("METADATA")]
        fields = HeaderParser().parsestr(archive.read(name).decode())
    assert fields["Requires-Python"] == ">=3.11.4"
    named = {c.rpartition(" ")[2] for c in fields.get_all("Classifier") if "Python :: 3." in c}
    assert named == {f"{major}.{minor}" for major, minor in PYTHONS}
    assert {"cluster", "test"} == set(fields.get_all("Provides-Extra"))


def test_every_dependency_has_a_lower_bound_that_is_met_here():
    extras = [r for group in PROJECT["optional-dependencies"].values() for r in group]
    for requirement in [*PROJECT["dependencies"], *extras]:
        if requirement.startswith("bpfree["):
            continue
        name, bound = re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,<\d+)?", requirement).groups()
        assert numbers(metadata.version(name)) >= numbers(bound), requirement


def numbers(version: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", version.partition("+")[0])]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_program_is_of_the_pythons_it_names(python):
    files = [ROOT / "run_all.py", ROOT / "conftest.py", *(ROOT / "bpfree").rglob("*.py")]
    assert len(files) > 60
    for path in files:
        ast.parse(path.read_text(encoding="utf-8"), path.name, feature_version=python)


USE = """
import sys
sys.path.insert(0, sys.argv[1])
import bpfree
from bpfree.experiments import published, tuned

assert bpfree.__file__.startswith(sys.argv[1]), bpfree.__file__
assert len(published.results()) > 500
assert len(tuned.table()) >= 0
record = bpfree.run(bpfree.Experiment("mf", "digits", architecture="1x4", max_epochs=1, device="cpu"))
print(record.metrics["test_accuracy"], record.machine["bpfree"], bpfree.environment_line())
"""


@pytest.mark.slow
def test_it_works_outside_the_checkout(wheel, tmp_path):
    """Unpacked, without installing; in an environment of its own CI installs it (`.ci/run`)."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-I", "-c", USE, str(tmp_path / "site")],  # -I: neither PYTHONPATH nor this folder
        cwd=tmp_path,
        env={**os.environ, "BPFREE_STORE": str(tmp_path / "store")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    accuracy, version, line = done.stdout.split(" ", 2)
    assert 0 <= float(accuracy) <= 100
    assert version == PROJECT["version"]
    assert line.startswith(f"bpfree {version}, torch ")
