"""`qmix-jax COMMAND`: finds the command, and reports its errors in one line."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from qmix_jax import __version__
from qmix_jax.console import accept_all_text, say
from qmix_jax.run.exits import CLOSED_PIPE, INTERRUPTED, limit_shutdown
from qmix_jax.run.startup import hush_libraries, report, require_current_folder
from qmix_jax.settings import ConfigError, nearest

COMMANDS = {
    "train": ("qmix_jax.cli.train", "train a team of agents"),
    "check-env": ("qmix_jax.cli.check_env", "find the mistakes of an environment, and say what is to be known of it"),
    "bench": ("qmix_jax.cli.bench", "measure how fast training is, and how its cost grows"),
    "export": ("qmix_jax.cli.export", "make a portable folder of a trained team"),
    "evaluate": ("qmix_jax.cli.evaluate", "score a trained team, also under noise, wrong actions and removed agents"),
    "render": ("qmix_jax.cli.render", "film a trained team, with each agent's credit"),
    "imports": ("qmix_jax.cli.imports", "name the code of others that a run would import, without importing it"),
    "status": ("qmix_jax.cli.status", "say how far the jobs of a sweep, or a single run, are"),
    "report": ("qmix_jax.cli.report", "compare runs: table, picture, JSON"),
}
"""Name -> (module with `main(arguments) -> int`, one line of help). Imported when called, which keeps --help fast."""

COMPOSING = ("train", "bench", "check-env")
"""The commands that make a run from settings on the command line."""
NAMES_MODULES = re.compile(r"\+*(env|algorithm|agent|env\.shield|callbacks|\w+\.name)=.*:|--config-dir\b|-cd\b")
"""The words of a command line that name modules."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (by default the process's own) and return the exit status."""
    accept_all_text()
    hush_libraries()
    command, *rest = (sys.argv[1:] if arguments is None else list(arguments)) or ["--help"]
    try:
        with _current_folder(command, rest):
            status = _dispatch(command, rest)
    except SystemExit as stop:  # argparse's, after --help, or of somebody else's code, with a text
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            say(stop.code, sys.stderr)
    except BrokenPipeError as error:  # the reader has seen enough, as `head`; or it is another pipe
        status = report(error) if _is_read() else CLOSED_PIPE
    except Exception as error:
        status = report(error)
    except KeyboardInterrupt:
        status = INTERRUPTED
    finally:
        _drop_unwritable_stdout()
    if arguments is None:  # the process has nothing else to do
        limit_shutdown(status)
    return status


@contextmanager
def _current_folder(command: str, rest: list[str]) -> Iterator[None]:
    """Add the current folder to the end of Python's search path where the command line itself names an import path, or
    a folder whose files may.

    The settings of a run never add it: the folder may be untrusted (docs/trust.md).
    """
    names_modules = command in COMPOSING and any(map(NAMES_MODULES.match, rest))
    if names_modules:
        sys.path.append("")
    try:
        yield
    finally:
        if names_modules:
            sys.path.remove("")


def _is_read() -> bool:
    """Whether stdout has a reader, which only a write tells."""
    try:
        print(flush=True)
    except OSError:
        return False
    return True


def _drop_unwritable_stdout() -> None:
    """Drop output that cannot be written any more: Python's own attempt at exit would change the exit status."""
    if sys.stdout is None:  # closed from the start
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(command: str, rest: list[str]) -> int:
    if command in ("-h", "--help", "help"):
        print(usage())
        return 0
    if command == "--version":
        print(f"qmix-jax {__version__}")
        return 0
    if command not in COMMANDS:
        hint = nearest(command, list(COMMANDS)) or f"; commands: {', '.join(COMMANDS)}"
        raise ConfigError(f"unknown command '{command}'{hint}")
    require_current_folder()
    module, _ = COMMANDS[command]
    return import_module(module).main(rest)


def usage() -> str:
    """The text of `qmix-jax --help`."""
    lines = [f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: qmix-jax COMMAND [ARGUMENTS]",
            "",
            "QMIX and its family of value-decomposition methods, trained end to end in JAX.",
            "",
            *lines,
            "",
            "qmix-jax COMMAND --help says more; qmix-jax --version names the version.",
        ]
    )
