"""How the groups of a figure look: their names, colours and lines, and the legend below the panels."""

from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import Any, Literal, NamedTuple, Protocol

from qmix_jax.analysis.drawing import COLOURS, INK
from qmix_jax.analysis.grouping import is_of_task

Line = Literal["-", "--", ":", "-."]
LINES: tuple[Line, ...] = ("-", "--", ":", "-.")
"""One after the other for every ten groups; among many shades of one colour, for every group."""
MANY = 10
"""More groups than this are numbered, and have several styles of lines."""
LONG = 32
"""Names with more characters than this stand in the legend alone."""
LEGEND_SIZE = 8.0
LETTER, SPACE = 5.4, 8
"""Points that a letter of the legend takes at most, on average; the letters for which a column has further space."""


class Look(NamedTuple):
    """How one group is drawn."""

    name: str
    number: int
    """From 1; 0 where groups are not numbered."""
    colour: Any
    line: Line

    @property
    def legend(self) -> str:
        """The name, after the number."""
        return f"{self.number}: {self.name}" if self.number else self.name

    @property
    def key(self) -> str:
        """The number, or the name where there is none."""
        return str(self.number or self.name)


class Named(Protocol):
    """A group, or its entry in a comparison."""

    @property
    def algorithm(self) -> str: ...  # noqa: D102
    @property
    def settings(self) -> dict[str, Any]: ...  # noqa: D102


def looks_of(groups: Iterable[Named]) -> dict[str, Look]:
    """The look of each algorithm with its settings.

    Groups that differ in one number have shades of one colour, from dark to light.
    """
    settings = {each.algorithm: {k: v for k, v in each.settings.items() if not is_of_task(k)} for each in groups}
    is_many = len(settings) > MANY
    is_numbered = is_many or any(len(name) > LONG for name in settings)
    has_shades, looks = len(settings) > 2 and _is_one_number(list(settings.values())), {}
    for k, name in enumerate(settings):
        if has_shades:
            colour, line = _shade(k / (len(settings) - 1)), LINES[k % 3 if is_many else 0]
        else:
            colour, line = COLOURS[k % MANY], LINES[k // MANY % len(LINES)]
        looks[name] = Look(name, (k + 1) * is_numbered, colour, line)
    return looks


def _is_one_number(settings: Sequence[Mapping[str, Any]]) -> bool:
    """Whether groups differ in a single setting, which is a number in all of them."""
    keys = {key for each in settings for key in each}
    return len(keys) == 1 and all(
        isinstance(each.get(key), int | float) and not isinstance(each[key], bool) for each in settings for key in keys
    )


def _shade(share: float) -> Any:
    import matplotlib

    return matplotlib.colormaps["viridis"](0.88 * share)


def draw_legend(looks: Sequence[Look], part: Any, width: float) -> None:
    """All looks in columns, in a figure of that width (inches)."""
    from matplotlib.lines import Line2D

    texts, columns = _legend_texts(looks, width)
    lines = [Line2D([], [], color=look.colour, linestyle=look.line, linewidth=1.8) for look in looks]
    style = {"frameon": False, "labelcolor": INK, "fontsize": LEGEND_SIZE}
    part.legend(lines, texts, loc="upper left", ncols=columns, **style)


def legend_height(looks: Sequence[Look], width: float) -> float:
    """In inches, in a figure of that width."""
    return 0.25 + 0.19 * ceil(len(looks) / _legend_texts(looks, width)[1])


def _legend_texts(looks: Sequence[Look], width: float) -> tuple[list[str], int]:
    """The texts of a legend, and the number of its columns."""
    letters = int(width * 72 / LETTER)
    texts = [cut(look.legend, letters - SPACE) for look in looks]
    return texts, max(1, letters // (max(map(len, texts)) + SPACE))


def ticks(looks: Sequence[Look], most: int) -> list[str]:
    """The names where all have at most that many characters, otherwise the numbers."""
    are_short = all(len(look.legend) <= most for look in looks)
    return [look.legend if are_short else look.key for look in looks]


def cut(text: str, most: int) -> str:
    """The text, in the middle cut to that many characters."""
    return text if len(text) <= most else f"{text[: most - most // 3 - 3]}...{text[len(text) - most // 3 :]}"
