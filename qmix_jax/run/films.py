"""Films and figures of a finished run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from qmix_jax.build import make_mixer
from qmix_jax.learning.evaluate import episode_keys, record, team_key
from qmix_jax.records import best_seed
from qmix_jax.run.compilation import compile_quickly
from qmix_jax.run.pictures import cut_episode
from qmix_jax.run.resume import complete_rows
from qmix_jax.run.trained import TrainedRun

if TYPE_CHECKING:
    from qmix_jax.film.recording import Painter, Recording


def best_team(run: TrainedRun, folder: Path) -> int:
    """The seed, counted from 0, whose last evaluation was best; 0 where no evaluation is recorded."""
    rows = complete_rows(folder, run.env_steps) if run.config.num_seeds > 1 else []
    return best_seed(rows[-1]) if rows else 0


def play(run: TrainedRun, team: int, seed: int, episodes: int) -> "list[Recording]":
    """The first episodes that `qmix-jax evaluate` plays with the same team and seed."""
    mixer, params = make_mixer(run.config.algorithm, run.env), run.params(team)
    keys = episode_keys(team_key(seed, team), episodes)
    played = jax.jit(lambda params, keys: record(run.env, run.agents, mixer, params, keys))
    result = jax.device_get(compile_quickly(played.lower(params, keys))(params, keys))
    return [cut_episode(result, episode, run.config, run.env) for episode in range(episodes)]


def write(painter: "Painter", recordings: "Sequence[Recording]", path: Path) -> None:
    """A film of the episodes one after another (.gif, .mp4), or a figure of them one below another (.png)."""
    from qmix_jax.film.credit import paint_with_values
    from qmix_jax.film.figure import draw_figure
    from qmix_jax.film.gif import save_gif
    from qmix_jax.film.mp4 import save_mp4

    suffix = path.suffix.lower()
    if suffix == ".png":
        draw_figure(painter, recordings, path)
        return
    save = save_mp4 if suffix == ".mp4" else save_gif
    save([frame for recording in recordings for frame in paint_with_values(painter, recording)], path)
