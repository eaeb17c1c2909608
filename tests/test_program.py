"""How a command ends: one line at most and an exit status, whatever happens to it or to its output."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAD = """
import os, signal, sys, time
from bpfree.errors import InvalidInput
from bpfree.errors.program import run_program
"""


def program(tmp_path: Path, body: str) -> list[str]:
    """The command of a program whose `main(argv)` has this body."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    path = tmp_path / "program.py"
    path.write_text(f"{HEAD}\ndef main(argv):\n{lines}\n\nsys.exit(run_program('prog', main))\n")
    return [sys.executable, str(path)]


def start(command: list[str], **how) -> subprocess.Popen:
    """Its output read by us, unless `how` says otherwise."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **{"cwd": ROOT, "env": environment(), **pipes, **how})


def environment(**more: str) -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return {**own, "PYTHONPATH": str(ROOT), **more}


def end(process: subprocess.Popen) -> tuple[int, str]:
    """Its exit status and what it said on stderr."""
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def test_the_status_is_mains(tmp_path):
    assert end(start(program(tmp_path, "print('done')\nreturn 1"))) == (1, "")


def test_an_error_of_ours_is_one_line_and_has_its_traceback_in_debug(tmp_path):
    command = program(tmp_path, "raise InvalidInput('lr=0: use a number greater than 0')")
    assert end(start(command)) == (2, "prog: lr=0: use a number greater than 0\n")
    status, said = end(start([*command, "--debug"]))
    assert status == 1
    assert said.startswith("Traceback")


def test_an_error_of_the_program_keeps_its_traceback(tmp_path):
    status, said = end(start(program(tmp_path, "open('/no/such/file')")))
    assert status == 1
    assert "FileNotFoundError" in said


STOPPED = """
try:
    print("ready", flush=True)
    time.sleep(600)
except KeyboardInterrupt as stop:
    {tidy}
    stop.add_note("2 of 3 are kept")
    raise
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows sends neither to one process")
@pytest.mark.parametrize(
    ("sent", "ends"), [("SIGINT", (130, "interrupted")), ("SIGTERM", (143, "terminated"))]
)
def test_a_signal_ends_it_as_ctrl_c_does(sent, ends, tmp_path):
    process = start(program(tmp_path, STOPPED.format(tidy="pass")), preexec_fn=listen)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, sent))
    assert end(process) == (ends[0], f"prog: {ends[1]}; 2 of 3 are kept\n")


@pytest.mark.skipif(os.name == "nt", reason="Windows sends neither to one process")
def test_a_second_sigterm_does_not_end_the_tidying_up(tmp_path):
    """`timeout` sends it to the process and to its group."""
    tidy = "os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.01)"
    process = start(program(tmp_path, STOPPED.format(tidy=tidy)))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert end(process) == (143, "prog: terminated; 2 of 3 are kept\n")


def listen() -> None:
    """A shell's background job ignores Ctrl-C, and would hand that down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


UNBUFFERED = pytest.mark.parametrize("unbuffered", ["", "1"])


@UNBUFFERED
@pytest.mark.parametrize("also", ["", "2>&1"])
def test_when_its_reader_has_gone_it_ends_in_silence(unbuffered, also, tmp_path):
    command = program(tmp_path, "while True: print('a line')")
    process = start(command, env=environment(PYTHONUNBUFFERED=unbuffered), **both(also))
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == 141
    if process.stderr:
        with process.stderr:
            assert process.stderr.read() == ""


def both(also: str) -> dict:
    return {"stderr": subprocess.STDOUT} if also else {}


def test_a_bar_whose_reader_has_gone_is_no_traceback_either(tmp_path):
    process = start(program(tmp_path, "while True: print('a line', file=sys.stderr)"))
    process.stderr.readline()
    process.stderr.close()
    assert process.wait(120) == 141
    process.stdout.close()


FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")


@FULL
@UNBUFFERED
def test_a_full_device_behind_its_output_is_one_line(unbuffered, tmp_path):
    with open("/dev/full", "w") as full:
        process = start(
            program(tmp_path, "print('a line')\nreturn 0"),
            stdout=full,
            env=environment(PYTHONUNBUFFERED=unbuffered),
        )
    assert end(process) == (2, "prog: its output cannot be written (No space left on device)\n")


HELP = "from bpfree.errors.program import Parser\nParser(prog='prog').parse_args(['--help'])"


@FULL
@pytest.mark.parametrize(
    ("body", "unbuffered"), [("print('a line')\nraise InvalidInput('wrong')", ""), (HELP, ""), (HELP, "1")]
)
def test_behind_an_error_or_the_help_it_is_no_traceback(body, unbuffered, tmp_path):
    with open("/dev/full", "w") as full:
        command = program(tmp_path, body)
        process = start(command, stdout=full, env=environment(PYTHONUNBUFFERED=unbuffered))
    status, said = end(process)
    assert status == 2
    assert said.count("\n") == 1
    assert said.startswith("prog: ")


@UNBUFFERED
def test_help_whose_reader_has_gone_ends_in_silence(unbuffered, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    process = start(program(tmp_path, HELP), stdout=writing, env=environment(PYTHONUNBUFFERED=unbuffered))
    os.close(writing)
    assert end(process) == (141, "")


@pytest.mark.skipif(os.name == "nt", reason="a shell's")
def test_output_that_the_shell_has_closed_is_missed_by_nobody(tmp_path):
    command = program(tmp_path, "print('a line')\nreturn 0")
    assert end(start(["sh", "-c", 'exec "$@" >&-', "sh", *command])) == (0, "")


@pytest.mark.skipif(os.name == "nt", reason="a shell's")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_there_to_be_asked_and_written_to(closed, tmp_path):
    asked = "[stream.isatty() for stream in (sys.stdout, sys.stderr)]"
    body = (
        f"{asked}\nprint('a line', file=sys.stderr)\nopen({str(tmp_path / 'told')!r}, 'w').close()\nreturn 0"
    )
    status, _ = end(start(["sh", "-c", f'exec "$@" {closed}', "sh", *program(tmp_path, body)]))
    assert status == 0
    assert (tmp_path / "told").read_bytes() == b""


TIED = """
from bpfree.errors.program import stop_with_starter
stop_with_starter()
print("ready", flush=True)
while True:
    time.sleep(0.01)
"""


def test_who_watches_its_starter_ends_with_it(tmp_path):
    process = start(program(tmp_path, TIED), stdin=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    process.stdin.close()
    process.stdin = None  # or communicate() would flush it
    assert end(process) == (143, "prog: terminated\n")
