"""Lines on the terminal, in any encoding."""

import codecs
import io
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

READABLE = "qmix_jax.readable"
"""Name of the codec error handler `readable`."""
_IN_ASCII = str.maketrans("·\N{EN DASH}✓■▁▂▃▄▅▆▇█", "|-*#" + 8 * "#")
_IN_ASCII |= str.maketrans({"±": "+-", "…": "..."})


def readable(error: UnicodeError) -> tuple[str, int]:
    """A codec error handler: characters that an encoding lacks become similar ASCII, or `?`.

    Raises:
        UnicodeError: `error` itself, if it comes from decoding.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_IN_ASCII)
    return text.encode("ascii", "replace").decode("ascii"), error.end


codecs.register_error(READABLE, readable)


def accept_all_text() -> None:
    """Make stdout and stderr replace characters that their encoding lacks (see `readable`) instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=READABLE)


def say(text: str, stream: TextIO | None = None) -> None:
    """Print text to `stream`, by default stdout; characters that its encoding lacks are replaced (see `readable`).

    Errors of the stream, such as a full disk, are ignored.
    """
    stream = stream or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    with suppress(OSError):
        print(text.encode(encoding, READABLE).decode(encoding), file=stream, flush=True)


def warn(text: str) -> None:
    """Print one line of warning to stderr."""
    say(f"warning: {text}", sys.stderr)


def short(path: Path) -> Path:
    """The path relative to the current folder, where it is below it; as it is where that folder was deleted."""
    with suppress(FileNotFoundError, ValueError):
        return path.relative_to(Path.cwd())
    return path


def reason(error: BaseException) -> str:
    """An error's message on one line, of a long one the start and the end; its type where the message is empty."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:145]} ... {text[-150:]}"


def duration(seconds: float) -> str:
    """A time in its two largest units: 42s, 12m03s, 1h02m, 3d04h."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02d}h"
    if hours:
        return f"{hours}h{minute:02d}m"
    return f"{minutes}m{second:02d}s" if minutes else f"{second}s"
