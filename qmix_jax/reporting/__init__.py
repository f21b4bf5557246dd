"""What a run shows and leaves behind; host only."""

import sys
from contextlib import suppress
from typing import TextIO


def say(text: str, stream: TextIO | None = None) -> None:
    """Print lines to `stream` (stdout). Where they cannot be written, a full disk behind it say, nothing else fails."""
    with suppress(OSError):
        print(text, file=stream or sys.stdout, flush=True)


def warn(text: str) -> None:
    """Print one line of warning to stderr."""
    say(f"warning: {text}", sys.stderr)
