"""The callbacks of a run as one: each is called in turn, and one that raises is left out from then on."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from qmix_jax.console import warn
from qmix_jax.import_path import describe, load, place_of
from qmix_jax.reporters.base import STOP, Callback, RunEnd, RunStart
from qmix_jax.settings import ConfigError, require


class Callbacks(Callback):
    """Calls each of `members`. `say` prints the one warning of a member that raises."""

    def __init__(self, members: Sequence[Callback], say: Callable[[str], None] = warn):
        self._members, self._say = list(members), say
        self.stopped_by = ""
        """The class of the first member that ended the run; '' while none does."""

    def on_start(self, start: RunStart) -> None:
        """Call `on_start` of each."""
        self._call("on_start", start)

    def on_evaluation(self, row: dict) -> str | None:
        """Call `on_evaluation` of each with a copy of the row; "stop" where one returns it."""
        stops = [type(member).__name__ for member, answer in self._call("on_evaluation", row) if answer == STOP]
        self.stopped_by = next(iter(stops), "")
        return STOP if stops else None

    def on_checkpoint(self, path: Path) -> None:
        """Call `on_checkpoint` of each."""
        self._call("on_checkpoint", path)

    def on_end(self, end: RunEnd) -> None:
        """Call `on_end` of each."""
        self._call("on_end", end)

    def close(self) -> None:
        """Call `close` of each."""
        self._call("close")

    def _call(self, method: str, *arguments: Any) -> list[tuple[Callback, Any]]:
        """What each member's method returns, those that raise left out."""
        answers = []
        for member in list(self._members):
            own = [deepcopy(each) if isinstance(each, dict) else each for each in arguments]
            try:
                answers.append((member, getattr(member, method)(*own)))
            except (Exception, SystemExit) as error:  # somebody else's code can raise anything; the run is worth more
                self._members.remove(member)
                name = type(member).__name__
                self._say(
                    f"{name}.{method} failed and is off for the rest of this run: {describe(error)}{place_of(error)}"
                )
        return answers


def callback_class(path: str) -> type[Callback]:
    """The class that an import path of `callbacks` names; raises ConfigError where it is none of a callback."""
    cls = load(path, "callbacks")
    is_callback = isinstance(cls, type) and issubclass(cls, Callback)
    require(is_callback, f"callbacks={path} is no subclass of qmix_jax.Callback")
    return cls


def make_callbacks(paths: Sequence[str]) -> list[Callback]:
    """The objects of the classes that `callbacks` names; raises ConfigError where one cannot be made."""
    made = []
    for path in paths:
        cls = callback_class(path)
        try:
            made.append(cls())
        except (Exception, SystemExit) as error:  # likewise
            raise ConfigError(f"callbacks={path} cannot be made: {describe(error)}{place_of(error)}") from error
    return made
