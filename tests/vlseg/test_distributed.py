"""How processes find each other, or say that they do not; what they compute together is tried in tests/scale."""

import os
import subprocess
import sys

import pytest

from tests.commands import ROOT, Commands, ending
from vlseg import distributed
from vlseg.errors import ConfigError

COMMANDS = Commands("ifseg_jax")
LINE = ("--config=configs/tiny.py", "--workdir=nowhere")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--coordinator=a:1",), "go together: --num_processes, --process_id missing"),
        (("--coordinator=a", "--num_processes=2", "--process_id=0"), "--coordinator a is not like 10.0.0.1:8476"),
        (("--coordinator=a:b", "--num_processes=2", "--process_id=0"), "--coordinator a:b is not like 10.0.0.1:8476"),
        (("--coordinator=a:70000", "--num_processes=2", "--process_id=0"), "a:70000 is not like 10.0.0.1:8476"),
        (("--coordinator=a:1", "--num_processes=2", "--process_id=2"), "--process_id 2 is not below --num_processes 2"),
        (("--distributed",), "cannot join others: "),
    ],
)
def test_flags_that_do_not_go_together(capsys, flags, message):
    assert message in COMMANDS.refusal(capsys, "train", *LINE, *flags)


def test_two_processes_of_a_host_with_one_id():
    claim = "from vlseg import distributed; distributed._claim('a:1', 1)"
    code = f"import time; {claim}; print('here', flush=True); time.sleep(60)"
    first = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "here\n"
        with pytest.raises(ConfigError, match="has --process_id 1 at a:1 already"):
            distributed._claim("a:1", 1)
    finally:
        first.kill()
        first.communicate()
    distributed._claim("a:1", 1)


def test_others_that_do_not_come():
    """Process 0 waits for another; another asks where no process 0 answers."""
    where = (("localhost:18473", "not all of the 2 processes came to"), ("localhost:9", "no process answers at"))
    waiting = []
    for process, (address, _) in enumerate(where):
        flags = (f"--coordinator={address}", "--num_processes=2", f"--process_id={process}", "--coordinator_timeout=1")
        line = [sys.executable, str(ROOT / "tests/scale/faults.py"), "none", *flags]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        waiting.append(subprocess.Popen(line, env=environment, stdout=pipe, stderr=pipe, text=True))
    for started, (address, message) in zip(waiting, where, strict=True):
        code, output, errors = ending(started)
        assert (code, output) == (2, "")
        assert errors.startswith(f"error: {message} {address}") and errors.count("\n") == 1
