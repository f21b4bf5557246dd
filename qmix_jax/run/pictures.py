"""The pictures of a run: its learning curve and a film of its best seed."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from qmix_jax.analysis.curve import draw_curve
from qmix_jax.records import best_seed
from qmix_jax.run.messages import title
from qmix_jax.run.program import Program
from qmix_jax.types import Params

CURVE, FILM = "curve.png", "policy.gif"
FILM_CANDIDATES = 8
"""Greedy episodes recorded for the film; the one with the median return is painted."""


def exist(folder: Path, with_film: bool) -> bool:
    """Whether the curve, and the film if it is wanted, are in the folder."""
    return all((folder / name).exists() for name in (CURVE, *[FILM] * with_film))


def paths(folder: Path, with_film: bool) -> tuple[Path | None, Path | None]:
    """The curve, and the film if it is wanted; None for one that is not in the folder."""
    curve, film = folder / CURVE, folder / FILM
    return curve if curve.exists() else None, film if with_film and film.exists() else None


def draw(program: Program, folder: Path, rows: list[dict], params: Params | None, say: Callable[[str], None]) -> None:
    """Draw the curve, and with parameters (S, ...) the film; a failure, whatever its reason, is a warning."""
    try:
        draw_curve(rows, folder / CURVE, title=title(program.config, program.env))
        if params is not None:
            say("painting the film")
            paint_film(program, folder / FILM, rows, params)
    except Exception as error:  # a run is worth more than its pictures
        say(f"warning: no pictures of the run: {str(error) or type(error).__name__}")


def paint_film(program: Program, path: Path, rows: list[dict], params: Params) -> None:
    """Paint the best seed's greedy episode with the median return."""
    from qmix_jax.film.gif import save_gif
    from qmix_jax.film.painter import painter_of
    from qmix_jax.film.recording import Recording

    config, env = program.config, program.env
    params = jax.tree.map(lambda leaf: leaf[best_seed(rows[-1])], params)
    play = program.compile_record(params, FILM_CANDIDATES)
    record = jax.device_get(play(params, jax.random.key(config.seed)))
    chosen = int(np.argsort(record.episodes.total)[FILM_CANDIDATES // 2])
    recording = Recording.cut(
        chosen,
        scene=record.scene,
        reward=record.reward,
        values=record.values,
        length=record.episodes.length,
        won=record.episodes.metrics.get("win_rate"),
        title=title(config, env),
    )
    save_gif(painter_of(env)(recording), path)
