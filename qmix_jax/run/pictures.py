"""The pictures of a run: its learning curve and a film of its best seed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from qmix_jax.analysis.curve import draw_curve
from qmix_jax.config import Config
from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.layout import layout_of
from qmix_jax.import_path import describe, place_of
from qmix_jax.learning.evaluate import RecordedEpisodes
from qmix_jax.records import best_seed
from qmix_jax.run.messages import title
from qmix_jax.run.program import Program
from qmix_jax.types import Params, TeamValues

if TYPE_CHECKING:
    from qmix_jax.film.recording import Recording

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
    with _kept_without("curve", say):
        draw_curve(rows, folder / CURVE, title=title(program.config, program.env))
    if params is not None:
        say("painting the film")
        with _kept_without("film", say):
            paint_film(program, folder / FILM, rows, params)


@contextmanager
def _kept_without(picture: str, say: Callable[[str], None]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever it is, the run itself is kept
        say(f"warning: no {picture} of the run: {describe(error)}{place_of(error)}")


def paint_film(program: Program, path: Path, rows: list[dict], params: Params) -> None:
    """Paint the best seed's greedy episode with the median return."""
    from qmix_jax.film.gif import save_gif
    from qmix_jax.film.painter import painter_of

    config, env = program.config, program.env
    params = jax.tree.map(lambda leaf: leaf[best_seed(rows[-1])], params)
    play = program.compile_record(params, FILM_CANDIDATES)
    record = jax.device_get(play(params, jax.random.key(config.seed)))
    chosen = int(np.argsort(record.episodes.total)[FILM_CANDIDATES // 2])
    save_gif(painter_of(env)(cut_episode(record, chosen, config, env)), path)


def cut_episode(record: RecordedEpisodes, episode: int, config: Config, env: TeamEnv) -> "Recording":
    """Episode number `episode`, counted from 0, of those that were recorded side by side, up to its own length."""
    from qmix_jax.film.recording import Recording

    steps, won = record.episodes.length[episode], record.episodes.metrics.get("win_rate")
    parts = (None if part is None else part[:steps, episode] for part in record.values)
    names = [agent.actions for agent in layout_of(env).agents]
    return Recording(
        scene={name: np.asarray(value[: steps + 1, episode]) for name, value in record.scene.items()},
        reward=np.asarray(record.reward[:steps, episode]),
        won=None if won is None else bool(won[episode]),
        title=title(config, env),
        values=TeamValues(*parts),  # pyright: ignore[reportArgumentType]
        agent_names=env.spec.agent_names,
        actions=tuple(
            tuple(own[taken] for own, taken in zip(names, step, strict=True))
            for step in record.action[:steps, episode].tolist()
        ),
        terminated=bool(record.terminated[steps - 1, episode]),
    )
