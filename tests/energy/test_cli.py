"""The command line: whole commands, exit status, JSON, --check, and one-line errors."""

from __future__ import annotations

import json
import signal
import sys
import threading

import pytest

from bpfree.energy import check
from bpfree.energy.__main__ import main

ENERGY = ("-m", "bpfree.energy")


def test_a_command_is_measured_with_its_children(python):
    code = "import time; t = time.process_time()\nwhile time.process_time() - t < 0.3: pass\nprint('hello')"
    done = python(
        *ENERGY, "--json", "--sources", "estimate", "--watts-per-core", "1", "--", sys.executable, "-c", code
    )
    assert done.returncode == 0
    record = json.loads(done.stdout)  # one JSON document and nothing else
    assert done.stdout.count("\n") == 1
    assert "hello" in done.stderr
    assert 0.3 < record["estimated_j"] < 0.6
    assert record["measured_j"] is None
    assert record["provenance"] == "estimated: CPU seconds x 1 W/core"


def test_table_follows_the_commands_output(python):
    done = python(*ENERGY, "--country", "POL", "--", sys.executable, "-c", "print('hello')")
    assert done.stdout.startswith("hello\n")
    assert "a power model, not a measurement" in done.stdout
    assert "Poland" in done.stdout


@pytest.mark.parametrize("status", [0, 3, 255])
def test_exit_status_passes_through(python, status):
    assert python(*ENERGY, "--", sys.executable, "-c", f"raise SystemExit({status})").returncode == status


def test_death_by_signal_is_128_plus_its_number(python):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    done = python(*ENERGY, "--", sys.executable, "-c", code)
    assert done.returncode == 128 + signal.SIGTERM
    assert "estimated" in done.stdout  # it is measured all the same


def test_the_commands_own_options_are_its_own(python):
    done = python(
        *ENERGY, "--", sys.executable, "-c", "import sys; print(sys.argv[1:])", "--json", "--", "--check"
    )
    assert "['--json', '--', '--check']" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --check or a command"),
        (["--json"], "give either --check or a command"),
        (["--check", "--", "true"], "give either --check or a command"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--hz", "fast", "--", "true"], "invalid float value: 'fast'"),
        (["--hz", "-5", "--", "true"], "hz=-5.0"),
        (["--country", "Poland", "--", "true"], "did you mean 'POL'"),
        (["--sources", "rpal", "--check"], "did you mean 'rapl'"),
        (["--watts-per-core", "0", "--", "true"], "watts_per_core=0.0"),
        (["--gpus", "0", "--sources", "estimate", "--", "true"], "gpus"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(python, arguments, message):
    done = python(*ENERGY, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("command", "status"), [("/no/such/command", 127), ("/", 126)])
def test_a_command_that_cannot_run(python, command, status):
    done = python(*ENERGY, "--", command)
    assert done.returncode == status
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_check_explains_every_source(capsys):
    assert main(["--check"]) == 0
    table = capsys.readouterr().out
    for source in ("nvml-counter", "nvml-power", "rapl", "estimate"):
        assert source in table
    assert "Energy can be measured here" in table or "Joules will be estimates" in table
    for row in check(0.05):
        assert row.detail
        assert row.status in ("measured", "estimated", "unavailable", "left out")


def test_check_as_json(capsys):
    assert main(["--check", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"source", "status", "detail"} <= rows[0].keys()


def test_check_on_a_machine_with_rapl(powercap):
    powercap.zone("intel-rapl:0", "package-0")
    powercap.zone("intel-rapl:1", "psys")
    mover = threading.Timer(0.1, lambda: powercap.set(rapl_0=2_000_000))
    mover.start()
    table = check(1.0, powercap=powercap.root)
    mover.join()
    found = {(row.source, row.channel): row for row in table}
    assert found["rapl", "cpu:package-0"].status == "measured"
    assert found["rapl", "psys"].status == "left out"
    assert "Energy can be measured here: cpu:package-0" in str(table)
