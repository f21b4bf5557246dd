"""What the commands that use a finished run share: their arguments, and how they say how far they are."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any, NoReturn, TextIO

from qmix_jax.settings import ConfigError


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose mistakes are one line, as everywhere."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(f"{message}; see {self.prog} --help")


def run_parser(command: str, description: str, examples: str) -> Parser:
    """A parser with the arguments that every such command has."""
    parser = Parser(
        prog=f"qmix-jax {command}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="the folder of a run, such as runs/2s3z-qmix/2026-01-31_12-00-00")
    parser.add_argument(
        "--checkpoint",
        default="last",
        metavar="best|last|STEP",
        help="which parameters: the best, the last (default), or those of an environment step",
    )
    parser.add_argument(
        "--seed",
        type=count_from(0),
        default=0,
        metavar="N",
        help="random seed of the episodes (default 0); the same seed gives the same episodes in every command",
    )
    return parser


def count_from(least: int) -> Any:
    """An argument's type: a whole number of at least `least`; 1e4 is one too."""

    def count(text: str) -> int:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (value.is_integer() and value >= least):
            raise argparse.ArgumentTypeError(f"'{text}' must be a whole number of {least} or more")
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
    """How far the work is, on stderr: one line that is rewritten on a terminal, now and then a new one elsewhere."""

    EVERY = 5.0
    """Seconds between lines where there is no terminal."""

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._last = -self.EVERY

    def say(self, text: str, *, is_stage: bool = False) -> None:
        """Say where the work stands; the beginning of a stage is always told."""
        now = time.monotonic()
        if self._is_terminal:
            self._stream.write(f"\r\x1b[2K{text}")
            self._stream.flush()
        elif is_stage or now - self._last >= self.EVERY:
            self._last = now
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave a terminal's line empty."""
        if self._is_terminal:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
