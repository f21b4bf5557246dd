"""What the commands share: the parser of their arguments, and a progress line."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from qmix_jax.settings import LARGEST_INT, ConfigError, nearest


class Parser(argparse.ArgumentParser):
    """The parser of a command's arguments. Every mistake is a ConfigError of one line.

    With `takes_settings`, settings NAME=VALUE may stand anywhere among the options; they become `overrides`.
    """

    def __init__(self, command: str, takes_settings: bool = False, **arguments: Any):
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=f"qmix-jax {command}", formatter_class=raw, allow_abbrev=False, **arguments)
        self._takes_settings = takes_settings
        if takes_settings:
            self.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="settings of the run")

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        _, is_unknown, words = message.partition("unrecognized arguments: ")
        if not (is_unknown and words.startswith("-")):
            raise ConfigError(f"{message}; see {self.prog} --help")
        option = words.split()[0]
        name, _, value = option.partition("=")
        hint = nearest(name, [known for known in self._option_string_actions if known.startswith("--")])
        setting = f"{name.lstrip('-').replace('-', '_')}={value or 'VALUE'}"
        advice = f"settings have no dashes: {setting}" if self._takes_settings else f"see {self.prog} --help"
        raise ConfigError(f"unknown option '{option}'{hint}; {advice}")


def run_parser(command: str, description: str, examples: str) -> Parser:
    """A parser with the arguments of every command that plays episodes of a finished run."""
    parser = Parser(command, description=description, epilog=examples)
    parser.add_argument("run", metavar="RUN", help="the folder of a run, such as runs/2s3z-qmix/2026-01-31_12-00-00")
    add_checkpoint(parser)
    parser.add_argument(
        "--seed",
        type=count_from(0),
        default=0,
        metavar="N",
        help="random seed of the episodes (default 0); the same seed gives the same episodes in every command",
    )
    return parser


def add_checkpoint(parser: Parser) -> None:
    """Add --checkpoint, which chooses the parameters of a run."""
    parser.add_argument(
        "--checkpoint",
        default="last",
        metavar="best|last|STEP",
        help="which parameters: the best, the last (default), or those of an environment step",
    )


def count_from(least: int) -> Any:
    """An argument's type: a whole number of at least `least` that int32 holds, also written as 1e4."""

    def count(text: str) -> int:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (value.is_integer() and least <= value <= LARGEST_INT):
            bounds = f"of {least} or more, and 2^31 - 1 at most"
            raise argparse.ArgumentTypeError(f"'{text}' must be a whole number {bounds}")
        return int(value)

    return count


def output(text: str) -> Path:
    """An argument's type: a file that can be written."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent} for {path.name}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; name a file")
    return path


class Progress:
    """The progress of a command on stderr: a live line of rich on a terminal, elsewhere a line now and then."""

    EVERY = 5.0
    """Seconds between lines where there is no terminal."""

    def __init__(self):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Live

        console = Console(stderr=True)
        self._is_terminal = console.is_terminal
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._live = Live(*columns, console=console, transient=True, disable=not self._is_terminal)
        self._task = self._live.add_task("")
        self._printed = 0.0

    def stage(self, text: str, total: int | None = None) -> None:
        """Begin a stage of the work, of `total` steps where they can be counted."""
        self._live.reset(self._task, description=text, total=total)
        self._print(text)

    def advance(self, steps: int) -> None:
        """Note that more steps of the stage are done."""
        self._live.advance(self._task, steps)
        task = self._live.tasks[0]
        if time.monotonic() - self._printed >= self.EVERY:
            self._print(f"{task.description}: {task.completed:,.0f} of {task.total:,.0f} ({task.percentage:.0f} %)")

    def _print(self, text: str) -> None:
        self._printed = time.monotonic()
        if not self._is_terminal:
            print(text, file=sys.stderr, flush=True)

    def __enter__(self) -> "Progress":
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()
