"""How every command starts and ends: flags, one-line errors, exit codes, quiet logs.

Exit codes: 0 done (or --help shown), 1 a fault of the program, with its traceback, 2 an error the user can act on,
3 done but for what was damaged and passed over (--skip_damaged), 130 interrupted, 134 another process is lost, 141
nobody reads what is printed (as with `| head`); training: 143 stopped by SIGTERM, and saved; verify: 1 without a
traceback, a check failed. With VLSEG_TRACEBACK=1 in the environment an error of the user also shows where it was
raised.
"""

import codecs
import contextlib
import errno
import inspect
import io
import logging
import math
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging

from vlseg import compilation_cache, devices, files
from vlseg.errors import VlsegError, is_of_jax, one_line

_ESCAPED = "vlseg.escaped"
_HELP = frozenset({"-h", "-?", "-help", "--help", "-helpshort", "--helpshort"})
_HELP_ALL = frozenset({"-helpfull", "--helpfull"})
_OWN_ERRNOS = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EFBIG),
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENAMETOOLONG, errno.ELOOP, errno.EADDRINUSE),
    }
)
"""What is wrong with the machine, or with a name that was given."""
_LIBRARIES = frozenset({"absl", "ml_collections"})
_LARGEST = 2**31 - 1
INTERRUPTED, UNREAD = 130, 141
_OUT_OF_MEMORY = re.compile("RESOURCE_EXHAUSTED|[Oo]ut of memory")
LOST = 134
"""Exit code of a process that cannot go on without another one, which JAX also ends with: it is worth another try."""


def run(main: Callable[[list[str]], Any], usage: str | None = None) -> NoReturn:
    """Parses the command line, runs `main` and exits.

    Args:
      main: gets the program's name in a list; anything else that is no flag is refused. What it returns is the exit
        code (None: 0).
      usage: the text above the flags in --help; without it, the docstring of the module of `main`.

    Raises:
      SystemExit: always; the code is 0, 2, 130 or what `main` returns.
      Exception: whatever `main` raises that no user could act on, for the traceback to be seen.
    """
    _quiet_native_logs()
    _print_any_name()
    _watch_over_the_end()
    try:
        try:
            app.run(_with_quiet_logs(main), flags_parser=lambda argv: _parse(argv, main, usage))
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # else a full or closed output is only seen when nothing can be said any more
    except (VlsegError, app.UsageError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        _interrupted()
    except BrokenPipeError:
        _give_up_output()
        _end_children()
        _end_at_once(UNREAD)
    except Exception as error:
        if said := _own_mistake(error):
            fail(said)
        if _works_with_others():
            traceback.print_exc()
            _end_at_once(LOST if _is_of_another(error) else 1)
        raise
    sys.exit(0)


def _own_mistake(error: Exception) -> str | None:
    """The message for an error that is no fault of the program: of the machine, or of what it was given."""
    if isinstance(error, OSError):
        if error.errno in _OWN_ERRNOS:
            place = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
            return f"{error.strerror or type(error).__name__}{place}"
        if "No usable temporary directory" in str(error):
            return f"{error.strerror}; free some space there, or set TMPDIR to another folder"
    if isinstance(error, MemoryError) or (is_of_jax(error) and _OUT_OF_MEMORY.search(str(error))):
        return (
            f"out of memory ({one_line(error)[:200] or 'of this machine'}); take smaller images, batches or models, "
            "or a machine with more"
        )
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "no more threads can be started: fewer of them (--config.loading.threads), or a higher ulimit -u"
    return devices.absent(error) if devices.is_absent(error) else None


def _interrupted() -> NoReturn:
    """Ends an interrupted command with one line, whatever its threads and processes are about."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("interrupted", file=sys.stderr)
    _end_children()
    with contextlib.suppress(OSError):
        _end_at_once(INTERRUPTED)
    os._exit(INTERRUPTED)


def _watch_over_the_end() -> None:
    """Ends a command with one line, too, that is interrupted while Python waits for its threads at exit."""
    before = sys.unraisablehook

    def hook(problem: "sys.UnraisableHookArgs") -> None:
        if isinstance(problem.exc_value, KeyboardInterrupt):
            _interrupted()
        before(problem)

    sys.unraisablehook = hook


def _end_children() -> None:
    """Ends processes of workers, which an end at once would leave behind."""
    multiprocessing = sys.modules.get("multiprocessing")
    for child in multiprocessing.active_children() if multiprocessing else ():
        child.terminate()


def _give_up_output() -> None:
    """Sends what is still to be printed nowhere."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())


def _parse(argv: Sequence[str], main: Callable[..., Any], usage: str | None) -> list[str]:
    wanted = frozenset(argv[1 : argv.index("--")] if "--" in argv else argv[1:])
    if wanted & (_HELP | _HELP_ALL):
        print(_help_text(main, usage, complete=bool(wanted & _HELP_ALL)))
        sys.exit(0)
    try:
        positionals = flags.FLAGS(argv)
        _check_values()
        _check_configs_were_read()
    except flags.Error as error:
        fail(_flag_message(str(error)))
    except OSError as error:
        fail(f"a file that the flags name cannot be read: {_last_line(_root(error))}")
    except (SyntaxError, ValueError) as error:
        if not isinstance(error, SyntaxError) and "null bytes" not in str(error):
            raise
        place, reason = "the file of --config", str(error)
        if isinstance(error, SyntaxError):
            place, reason = f"{error.filename or place}, line {error.lineno or 1}", error.msg
        fail(f"{place}: {reason}")
    except (AttributeError, KeyError) as error:
        if "has no attribute 'get_config'" in str(error):
            fail("the file of --config has no function get_config: give one such as configs/coco.py")
        modules = {frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)}
        # A mistake in the configuration file itself deserves its traceback.
        if "ml_collections.config_flags.config_path" not in modules:
            raise
        fail(_setting_message(error))
    if positionals[1:]:
        # A pattern that the shell has expanded, or a list with blanks, would otherwise lose all but its first part.
        fail(f"unexpected argument {positionals[1]!r}: put a pattern or a list with blanks in quotes")
    return positionals


def _check_values() -> None:
    """Ends the command over a value of a flag of ours that no flag can have: empty, not finite, or beyond 32 bits.

    Settings of a configuration, which have dots in their names, are checked with it.
    """
    for module, listed in flags.FLAGS.flags_by_module_dict().items():
        if module.partition(".")[0] in _LIBRARIES:
            continue
        for flag in listed:
            if flag.present and "." not in flag.name:
                _check_value(flag.name, flag.value)


def _check_value(name: str, value: Any) -> None:
    if value in ("", []):
        fail(f"--{name} is empty, as a shell variable without a value: give a value, or leave the flag out")
    if isinstance(value, float) and not math.isfinite(value):
        fail(f"--{name} is {value}; it must be a finite number")
    if isinstance(value, int) and abs(value) > _LARGEST:
        fail(f"--{name} is {value}; it must fit in 32 bits")


def _check_configs_were_read() -> None:
    """Raises OSError for a configuration file that is missing: ml_collections keeps that for the first use."""
    for name in flags.FLAGS:
        value = flags.FLAGS[name].value
        if type(value).__module__.startswith("ml_collections."):
            getattr(value, "lock", None)


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _last_line(error: object) -> str:
    return str(error).strip().splitlines()[-1].strip()


def _help_text(main: Callable[..., Any], usage: str | None, complete: bool) -> str:
    module = inspect.getmodule(main)
    description = usage if usage is not None else inspect.getdoc(module) or ""
    if complete:
        return f"{description.strip()}\n{flags.FLAGS.get_help()}"
    # The flags of the module that is run as a program are filed under the program's path.
    is_program = usage is not None or module is None or module.__name__ == "__main__"
    flag_help = flags.FLAGS.main_module_help() if is_program else flags.FLAGS.module_help(module)
    return f"{description.strip()}\n{flag_help}\n\n--helpfull lists the flags of all libraries."


def _setting_message(error: BaseException) -> str:
    suggestion = re.search(r'Did you mean "(\w+)"', str(error))
    hint = f"did you mean {suggestion[1]}?" if suggestion else "look into the file of --config"
    while error.__context__ is not None:
        error = error.__context__
    return f"no such setting: {error.args[0] if error.args else error}; {hint}"


def _flag_message(message: str) -> str:
    required = re.search(r"Flag --(\S+) must have a value other than None", message)
    if required:
        message = f"--{required[1]} is required"
    message = re.sub(r"\('Non-boolean argument to boolean flag', ('.*')\)", r"\1 is neither true nor false", message)
    message = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"\1 is no integer", message)
    message = re.sub(r"could not convert string to float: (.*)", r"\1 is no number", message)
    if "Error whilst parsing config file" in message:
        # ml_collections gives the whole traceback as the message; its last line is the error.
        message = f"{message.split(': ')[0]}: {_last_line(message)}"
    if "get_config() takes 0 positional arguments" in message:
        message = f"{message.split(': ')[0]}: this file takes nothing after the colon"
    return f"{message.rstrip('.')} (--help lists the flags)"


def _in_one_line(record: logging.LogRecord) -> bool:
    """Makes a message of ours one short line, whatever file names and words it quotes."""
    packages = sys.modules.get("vlseg.packages")
    own = ("vlseg", *(packages.registered() if packages else ()))
    if record.name.partition(".")[0] in own and not record.exc_info:
        record.msg, record.args = one_line(record.getMessage()), ()
    return True


def _with_quiet_logs(main: Callable[[list[str]], Any]) -> Callable[[list[str]], Any]:
    def run_main(argv: list[str]) -> Any:
        _quiet_python_logs()
        absl_logging.get_absl_handler().addFilter(_in_one_line)
        compilation_cache.keep()
        try:
            return main(argv)
        except app.UsageError as error:
            # absl would print the whole usage.
            raise VlsegError(str(error)) from error

    return run_main


def _print_any_name() -> None:
    """Lets standard output and standard error take names of files that are not UTF-8."""
    codecs.register_error(_ESCAPED, _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ESCAPED)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """What is printed in place of characters that the encoding of a stream lacks."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = files.shown_path(error.object[error.start : error.end])
    return lacking.encode("ascii", "backslashreplace").decode(), error.end


def _quiet_native_logs() -> None:
    # Read by the C++ parts of JAX, TensorFlow and gRPC when they are loaded.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # Of an interrupted command: Python's helper that frees what worker processes shared tells how much that was.
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")


def _quiet_python_logs() -> None:
    # --verbosity, if given, is the user's choice. absl itself raises the default to INFO.
    if any(argument.lstrip("-").startswith(("verbosity", "v=")) for argument in sys.argv[1:]):
        return
    absl_logging.set_verbosity(absl_logging.ERROR)
    # Time, process and line of code say nothing to a person.
    absl_logging.get_absl_handler().setFormatter(logging.Formatter("warning: %(message)s"))
    # JAX warns when it runs on the CPU of a machine that has an accelerator.
    packages = sys.modules.get("vlseg.packages")
    for name in ("jax", "vlseg", *(packages.registered() if packages else ())):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The client of gs:// shows the traceback of whatever it tries again.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)


def fail(message: str) -> NoReturn:
    """Ends the process with one line on standard error and exit code 2."""
    if os.environ.get("VLSEG_TRACEBACK", "") not in ("", "0"):
        traceback.print_exc()
    print(f"error: {one_line(message)}", file=sys.stderr)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _give_up_output()  # else Python tries once more at its end, and says so
    if _works_with_others():
        _end_at_once(2)
    sys.exit(2)


def _works_with_others() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and bool(jax.distributed.is_initialized())


def _is_of_another(error: Exception) -> bool:
    """Whether an error comes from working together, as when another process is lost, and not from this process."""
    own = re.compile("RESOURCE_EXHAUSTED|INVALID_ARGUMENT|UNIMPLEMENTED|FAILED_PRECONDITION|NOT_FOUND")
    return "Gloo" in str(error) or (is_of_jax(error) and not own.match(str(error)))


def _end_at_once(code: int) -> NoReturn:
    """Ends a process that works together with others, for which an ordinary end waits minutes and loses the code."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
