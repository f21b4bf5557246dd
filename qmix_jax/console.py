"""What a run shows and leaves behind; host only."""

import codecs
import io
import sys
from contextlib import suppress
from typing import TextIO

READABLE = "qmix_jax.readable"
"""Name of the codec error handler `readable`."""
_IN_ASCII = str.maketrans("·\N{EN DASH}✓■▁▂▃▄▅▆▇█", "|-*#" + 8 * "#")
_IN_ASCII |= str.maketrans({"±": "+-", "…": "..."})


def readable(error: UnicodeError) -> tuple[str, int]:
    """A codec error handler: what an encoding does not have becomes ASCII of the same meaning, or `?`.

    Raises:
        UnicodeError: the error itself, where it is not one of encoding.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_IN_ASCII)
    return text.encode("ascii", "replace").decode("ascii"), error.end


codecs.register_error(READABLE, readable)


def accept_all_text() -> None:
    """Make stdout and stderr write what their encoding does not have as `readable` ASCII, instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=READABLE)


def say(text: str, stream: TextIO | None = None) -> None:
    """Print lines to `stream` (stdout). Where they cannot be written, a full disk behind it say, nothing else fails.

    What the stream's encoding does not have is written as `readable` ASCII.
    """
    stream = stream or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    with suppress(OSError):
        print(text.encode(encoding, READABLE).decode(encoding), file=stream, flush=True)


def warn(text: str) -> None:
    """Print one line of warning to stderr."""
    say(f"warning: {text}", sys.stderr)
