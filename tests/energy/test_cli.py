"""The command line: whole commands, exit status, JSON, --check, and one-line errors."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from bpfree.energy import check
from bpfree.energy.__main__ import main
from bpfree.energy.check import working

ENERGY = ("-m", "bpfree.energy")


def test_a_command_is_measured_with_its_children(python):
    burn = "from time import process_time as now\nwhile now() < 0.3: pass\n"
    code = burn + "print('hello', now())"
    done = python(
        *ENERGY, "--json", "--sources", "estimate", "--watts-per-core", "1", "--", sys.executable, "-c", code
    )
    assert done.returncode == 0
    record = json.loads(done.stdout)  # one JSON document and nothing else
    assert done.stdout.count("\n") == 1
    hello, burnt = done.stderr.split()
    assert hello == "hello"
    assert float(burnt) <= record["estimated_j"] < 2 * float(burnt)  # once, and not twice
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


CHILD = """
import os, signal, sys, time
def first(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    print("first", flush=True)
if {patient}:
    signal.signal(signal.SIGTERM, first)
print(os.getpid(), flush=True)
for _ in range(20):  # and not for ever, should no signal come
    time.sleep(1)
"""


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("form", ["json", "table"])
def test_sigterm_reaches_the_command_and_the_reading_is_printed(times, form):
    """As often as it comes: a command that goes on after the first has the second."""
    code = CHILD.format(patient=times == 2)
    options = ["--sources", "estimate", *(["--json"] if form == "json" else [])]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [sys.executable, *ENERGY, *options, "--", sys.executable, "-c", code], **streams
    ) as p:
        theirs = p.stderr if form == "json" else p.stdout
        child = int(theirs.readline())
        p.terminate()
        try:
            if times == 2:
                assert theirs.readline() == "first\n"
                p.terminate()
            p.wait()
            with pytest.raises(ProcessLookupError):
                os.kill(child, 0)
        finally:  # or its pipes would never end
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        out, err = p.communicate()
    assert p.returncode == 128 + signal.SIGTERM
    assert err == ""
    if form == "json":
        assert json.loads(out)["estimated_j"] > 0
    else:
        assert out.count("a power model, not a measurement") == 1


@pytest.mark.parametrize(("before", "during"), [("SIG_IGN", "[True, True]"), ("SIG_DFL", "[False, False]")])
def test_a_signal_that_is_to_be_ignored_stays_ignored(python, before, during):
    """As with nohup: neither this program nor the command has it otherwise."""
    code = "import signal; print([signal.getsignal(s) == signal.SIG_IGN for s in (2, 15)])"
    start = (
        f"import os, signal, sys; [signal.signal(s, signal.{before}) for s in (2, 15)];"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    assert during in python("-c", start, *ENERGY, "--", sys.executable, "-c", code).stdout


OUTPUTS = [["--check"], ["--check", "--json"], ["--help"], ["--", sys.executable, "-c", ""]]


@pytest.mark.parametrize("arguments", OUTPUTS, ids=" ".join)
def test_a_closed_pipe_is_silent(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, *ENERGY, *arguments]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("arguments", OUTPUTS, ids=" ".join)
def test_a_full_device_is_one_line(arguments):
    with open("/dev/full", "w") as full:
        command = [sys.executable, *ENERGY, *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


def test_the_commands_failure_counts_before_that_of_our_output():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, *ENERGY, "--", sys.executable, "-c", "raise SystemExit(3)"]
    assert subprocess.run(command, stdout=writing).returncode == 3
    os.close(writing)


@pytest.mark.skipif(sys.platform != "linux", reason="arguments are bytes there")
def test_a_command_whose_name_is_no_utf8(python):
    code = "import os; os.execvp(os.sys.executable, [os.sys.executable, *{}, b'\\xff'])"
    arguments = [*ENERGY, "--sources", "estimate", "--", sys.executable, "-c", "pass"]
    done = python("-c", code.format(arguments), PYTHONIOENCODING="utf-8")
    assert done.returncode == 0, done.stderr
    assert "not added" in done.stdout


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
        (["--load", "--", "true"], "--load goes with --check"),
        (["--check", "--", "true"], "give either --check or a command"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--hz", "fast", "--", "true"], "invalid float value: 'fast'"),
        (["--hz", "-5", "--", "true"], "hz=-5.0"),
        (["--country", "Poland", "--", "true"], "did you mean 'POL'"),
        (["--sources", "rpal", "--check"], "did you mean 'rapl'"),
        (["--watts-per-core", "0", "--", "true"], "watts_per_core=0.0"),
        (["--gpus", "0", "--sources", "estimate", "--", "true"], "gpus"),
        (["--gpus", "²", "--sources", "estimate", "--", "true"], "gpus"),
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


def test_a_load_is_work():
    with working():
        begun = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - begun > 0.05


def test_check_on_a_machine_with_rapl(powercap):
    powercap.zone("intel-rapl:0", "package-0")
    powercap.zone("intel-rapl:1", "psys")
    over = threading.Event()

    def move() -> None:  # until the check is over: it moves in its window however late that begins
        for moved in itertools.count(1):
            powercap.set(rapl_0=1_000_000 + 50_000 * moved)
            if over.wait(0.01):
                return

    mover = threading.Thread(target=move)
    mover.start()
    try:
        table = check(1.0, sysfs=powercap.sysfs)
    finally:
        over.set()
        mover.join()
    found = {(row.source, row.channel): row for row in table}
    assert found["rapl", "cpu:package-0"].status == "measured"
    assert found["rapl", "psys"].status == "left out"
    assert "Energy can be measured here: cpu:package-0" in str(table)
