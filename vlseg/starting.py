"""What goes wrong while Python imports a command, before `vlseg.cli` sees to its errors.

Imports take seconds, in which a person may press Ctrl-C, and JAX reads its settings from the environment then.
"""

import os
import re
import signal
import sys
from typing import Any

INTERRUPTED = 130


def watch() -> None:
    """Ends a command whose imports fail for a reason that is no fault of the program with one line.

    It is also where a command's environment is made what the libraries need.

    Does nothing in a process that is no `python -m` command: theirs are imported while the name of the program is
    still "-m".
    """
    if sys.argv[:1] == ["-m"]:
        sys.excepthook = _end
        # For people's own code: no layer of Flax adds its bias under another value.
        os.environ["JAX_NUMPY_RANK_PROMOTION"] = "allow"
    elif "--multiprocessing-fork" in sys.orig_argv and _is_command(sys.argv[0]):
        # A worker of a command, which gets the Ctrl-C of the terminal, too, and is ended by the command.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _is_command(program: str) -> bool:
    """Whether a program lies beside this package."""
    return os.path.abspath(program).startswith(os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep)


def _end(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        _say("interrupted", INTERRUPTED)
    # Not above: the sooner this hook is there, the fewer interruptions come before it.
    from vlseg.errors import VlsegError, one_line

    if isinstance(error, VlsegError) or re.search("JAX flag|for environment '", str(error)):
        _say(f"error: {one_line(error)}", 2)
    if isinstance(error, OSError) and error.filename:
        _say(f"error: {error.strerror}: {one_line(error.filename)}", 2)
    sys.__excepthook__(kind, error, trace)


def _say(line: str, code: int) -> None:
    """Prints a line and ends the process: this hook cannot change its exit code otherwise."""
    print(line, file=sys.stderr, flush=True)
    os._exit(code)
