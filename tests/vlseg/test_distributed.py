"""How processes find each other, or say that they do not; what they compute together is tried in tests/scale."""

import pytest

from tests.commands import Commands, ending

COMMANDS = Commands("ifseg_jax")
LINE = ("--config=configs/tiny.py", "--workdir=nowhere")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--coordinator=a:1",), "go together: --num_processes, --process_id missing"),
        (("--coordinator=a", "--num_processes=2", "--process_id=0"), "--coordinator a is not like 10.0.0.1:8476"),
        (("--coordinator=a:1", "--num_processes=2", "--process_id=2"), "--process_id 2 is not below --num_processes 2"),
        (("--distributed",), "cannot join others: "),
    ],
)
def test_flags_that_do_not_go_together(capsys, flags, message):
    assert message in COMMANDS.refusal(capsys, "train", *LINE, *flags)


@pytest.mark.parametrize(
    ("process", "message"), [(0, "not all of the 2 processes came to"), (1, "no process answers at")]
)
def test_others_that_do_not_come(process, message):
    where = ("--coordinator=localhost:9", "--num_processes=2", f"--process_id={process}", "--coordinator_timeout=1")
    if process == 0:
        where = ("--coordinator=localhost:18473", *where[1:])
    code, output, errors = ending(COMMANDS.spawn("train", *LINE, *where))
    assert (code, output) == (2, "")
    assert errors.startswith("error: ") and message in errors and errors.count("\n") == 1
