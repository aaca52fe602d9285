"""Two processes that wait for each other, of which the second has a fault: refused, lost, killed or none.

python tests/scale/faults.py FAULT [--coordinator=HOST:PORT --num_processes=2 --process_id=I]
"""

import errno
import functools
import os
import signal
import sys

import jax

from vlseg import cli, distributed
from vlseg.errors import ConfigError

FAULTS = {"refused": ConfigError("a fault of one process"), "lost": OSError(errno.ESTALE, "Stale file handle")}


def main(fault, _):
    distributed.initialize()
    if fault != "none" and jax.process_index() == 1:
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise FAULTS[fault]
    distributed.wait_for_all("the end")


if __name__ == "__main__":
    distributed.define_flags()
    cli.run(functools.partial(main, sys.argv.pop(1)), usage=__doc__)
