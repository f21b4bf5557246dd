"""A report as one HTML page that needs no other file and asks nothing of any server.

Texts of run folders may be somebody else's: all are escaped, and the page's Content-Security-Policy lets only the
styles and the script run that are known by their hashes.
"""

import base64
import hashlib
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from qmix_jax.analysis.best import Best
from qmix_jax.analysis.comparison import Comparison
from qmix_jax.analysis.grouping import Group, value_text
from qmix_jax.analysis.runs import RunFolder
from qmix_jax.analysis.sparkline import draw_sparkline
from qmix_jax.analysis.tables import Cell, Table, tables_of
from qmix_jax.console import duration
from qmix_jax.deployed_agent import ArtifactError, read_file
from qmix_jax.records import is_share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILM = "policy.gif"
FILM_BYTES = 8 << 20
"""The bytes of all films in a page together; further ones are only named."""


def to_page(
    comparisons: Sequence[Comparison],
    groups: Sequence[Group],
    best: Sequence[Best],
    left_out: Sequence[str],
    figures: Mapping[str, "Figure"],
) -> str:
    """The page, with figures by their descriptions."""
    parts = [
        *_best(best),
        "<h2>Figures</h2>",
        *(_figure(text, figure) for text, figure in figures.items()),
        *(part for comparison in comparisons for part in _comparison(comparison)),
        *_runs(comparisons, groups),
        *_list("Left out", left_out),
    ]
    folder = Path(__file__).parent
    style, script = (folder.joinpath(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return Template(folder.joinpath("page.html").read_text(encoding="utf-8")).substitute(
        title=_text(f"Report: {', '.join(each.environment for each in comparisons)}"),
        body="\n".join(parts),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
    )


def _text(text: object) -> str:
    return html.escape(str(text), quote=True)


def _hash(text: str) -> str:
    """As a Content-Security-Policy names a style or a script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


# --- the comparisons ---------------------------------------------------------------------------------------------


def _best(best: Sequence[Best]) -> Iterator[str]:
    if best:
        yield "<h2>Best</h2>"
    for text, commands in best:
        yield f"<p>{_text(text)}</p><pre>{_text(chr(10).join(commands))}</pre>"


def _comparison(comparison: Comparison) -> Iterator[str]:
    yield f"<h2>{_text(comparison.environment)}</h2>"
    yield from map(_table, tables_of(comparison))
    yield from _list("", comparison.notes)


def _list(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield f"<h2>{title}</h2>" * bool(title) + f"<ul>{''.join(f'<li>{_text(line)}</li>' for line in lines)}</ul>"


def _table(table: Table, links: Sequence[str] = ()) -> str:
    """A table that can be sorted; with `links`, each row's first cell is a link."""
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{_text(name)}</button></th>' for name in table.head
    )
    rows = []
    for k, (first, *rest) in enumerate(table.rows):
        name = f'<a href="#{links[k]}">{_text(first.text)}</a>' if links else _text(first.text)
        rows.append(f"<tr><td>{name}</td>{''.join(map(_cell, rest))}</tr>")
    return _titled(table.title, f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>")


def _titled(title: str, rows: str) -> str:
    """A table that scrolls below its title."""
    table = f'<table aria-label="{_text(title)}">{rows}</table>'
    return f'<p class="title">{_text(title)}</p><div class="scroll">{table}</div>'


def _cell(cell: Cell) -> str:
    if cell.value is None:
        return f"<td>{_text(cell.text)}</td>"
    return f'<td class="number" data-value="{cell.value!r}">{_text(cell.text)}</td>'


def _figure(description: str, figure: "Figure") -> str:
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    source = _data("image/svg+xml", content.getvalue())
    return (
        f'<figure><img alt="{_text(description)}" src="{source}"><figcaption>{_text(description)}</figcaption></figure>'
    )


# --- the runs ----------------------------------------------------------------------------------------------------


def _runs(comparisons: Sequence[Comparison], groups: Sequence[Group]) -> Iterator[str]:
    """A table of all runs, then each with its curve, its film and its settings."""
    metrics = {comparison.environment: comparison.metric for comparison in comparisons}
    runs = [(group, run) for group in groups for run in group.runs]
    names = [f"run{k}" for k in range(len(runs))]
    head = ["run", "task", "algorithm", "seeds", "steps", "last evaluation", "wall clock"]
    rows = [_run_cells(group, run, metrics[group.environment]) for group, run in runs]
    yield "<h2>Runs</h2>"
    yield _table(Table("The mean over seeds at the last evaluation of each run", head, rows), names)
    left = FILM_BYTES
    for name, (group, run) in zip(names, runs, strict=True):
        film, size = _film(run.folder, left)
        left -= size
        parts = [draw_sparkline(run, metrics[group.environment]), film, _settings(run)]
        title = _text(f"{run.folder}: {group.task}, {group.algorithm}")
        yield f'<details id="{name}"><summary>{title}</summary><div class="run">{"".join(parts)}</div></details>'


def _run_cells(group: Group, run: RunFolder, metric: str) -> list[Cell]:
    last = run.rows[-1]
    scores = run.evaluations(metric)[last["env_steps"]]
    mean = sum(score or 0.0 for score in scores) / len(scores)
    return [
        Cell(str(run.folder)),
        Cell(group.task),
        Cell(group.algorithm),
        Cell(", ".join(map(str, run.seeds)), len(run.seeds)),
        Cell(f"{last['env_steps']:,}", last["env_steps"]),
        Cell(f"{100 * mean:.1f} %" if is_share(metric) else f"{mean:.2f}", mean),
        Cell(duration(last["wall_seconds"]), last["wall_seconds"]),
    ]


def _film(folder: Path, most: int) -> tuple[str, int]:
    """The film of a run, and the bytes that it takes; a film of more than `most` bytes is only named."""
    path = folder / FILM
    if not path.is_file():
        return "", 0
    try:
        film = read_file(path, most)
    except ArtifactError:
        size = f"{path.stat().st_size / 2**20:.1f} MB"
        return f"<p>Film: {_text(path)} ({size}), left out: films of a page have {FILM_BYTES >> 20} MB.</p>", 0
    if not film.startswith(b"GIF8"):
        return f"<p>{_text(path)} is no film.</p>", 0
    return f'<img alt="Film of an episode of {_text(folder)}" src="{_data("image/gif", film)}">', len(film)


def _settings(run: RunFolder) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_text(name)}</th><td>{_text(value_text(value))}</td></tr>'
        for name, value in run.settings.items()
    )
    return f"<div>{_titled('Settings', f'<tbody>{rows}</tbody>')}</div>"
