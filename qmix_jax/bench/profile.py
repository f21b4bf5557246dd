"""Sums up a profiler's trace: how busy the devices were, and which operations took longest."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jax.profiler import ProfileData

LONGEST = 12  # operations that are named


class Event(NamedTuple):
    """One event of a thread or stream, in nanoseconds."""

    name: str
    start: float
    duration: float

    @property
    def end(self) -> float:
        """When the event ended."""
        return self.start + self.duration


class Operation(NamedTuple):
    """All executions of one operation of the compiled program."""

    name: str
    """The compiler's name of it."""
    origin: str
    """Where it comes from: transformations, modules and JAX's primitive."""
    runs: int
    seconds: float
    """Of all executions, without the operations nested in it, such as a loop's body."""
    share: float
    """Of all operations' time."""


class Profile(NamedTuple):
    """A trace, summed up."""

    busy: float
    """Share of the time in which a device computes, on average over devices; at most 1."""
    operations: list[Operation]
    """The operations with the longest total time."""


def read_trace(folder: Path, program: str, devices: int) -> Profile:
    """Sum up the newest trace below `folder`.

    Args:
        folder: the argument of `jax.profiler.trace`.
        program: the text of the compiled program that ran (`compiled.as_text()`); only its operations count.
        devices: how many devices ran it.
    """
    trace = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    known = origins(program)
    planes = ProfileData.from_file(str(trace)).planes
    lines = [[_event(event) for event in line.events] for plane in planes for line in _lines(plane)]
    return summarise(lines, known, devices)


def _lines(plane: Any) -> list[Any]:
    """A GPU's streams, without the summary lines of the plane; a CPU's threads."""
    lines = list(plane.lines)
    return [line for line in lines if line.name.startswith("Stream")] or lines


def _event(event: Any) -> Event:
    """The event under its operation's name, which differs from the kernel's on a GPU."""
    name = dict(event.stats).get("hlo_op", event.name)
    return Event(str(name), event.start_ns, event.duration_ns)


def origins(program: str) -> dict[str, str]:
    """The origin of each instruction of a compiled program."""
    found = re.findall(r'^\s*(?:ROOT )?%?([\w.\-]+) = (?:.*?op_name="([^"]*)")?', program, re.MULTILINE)
    return {name: without_loops(origin) or origin for name, origin in found}


def without_loops(origin: str) -> str:
    """`jit(f)/while/body/closed_call/jvp(QMIX)/cond/branch_1_fun/w1/dot_general` as `jvp(QMIX)/w1/dot_general`."""
    return re.sub(r"/(while|body|closed_call|cond|branch_\d+_fun)\b", "", origin).partition("/")[2]


def summarise(lines: Iterable[list[Event]], known: dict[str, str], devices: int) -> Profile:
    """Sum up the events of threads or streams that belong to `known` operations; nested events overlap in time."""
    seconds, runs = defaultdict[str, float](float), defaultdict[str, int](int)
    first, last = float("inf"), 0.0
    for events in lines:
        for event, own in own_times(events):
            if event.name in known:
                seconds[event.name] += own * 1e-9
                runs[event.name] += 1
                first, last = min(first, event.start), max(last, event.end)
    total = sum(seconds.values())
    if not total:
        return Profile(0.0, [])
    longest = sorted(seconds, key=seconds.__getitem__, reverse=True)[:LONGEST]
    operations = [Operation(name, known[name], runs[name], seconds[name], seconds[name] / total) for name in longest]
    return Profile(min(total / ((last - first) * 1e-9 * devices), 1.0), operations)


def own_times(events: list[Event]) -> Iterator[tuple[Event, float]]:
    """Each event with its duration less that of the events directly within it."""
    events = sorted(events, key=lambda event: (event.start, -event.duration))
    own, around = [event.duration for event in events], []
    for i, event in enumerate(events):
        while around and events[around[-1]].end <= event.start:
            around.pop()
        if around:
            own[around[-1]] -= event.duration
        around.append(i)
    return zip(events, own, strict=True)
