"""`qmix-jax render RUN`: films and figures of a trained team, with Q-values and credit."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from qmix_jax.cli.arguments import Progress, count_from, output, run_parser
from qmix_jax.cli.startup import AUTO, start_jax
from qmix_jax.config import require

if TYPE_CHECKING:
    from qmix_jax.film.film import Recording
    from qmix_jax.run.checkpoint import TrainedRun

SUFFIXES = (".gif", ".mp4", ".png")

DESCRIPTION = """\
Film a trained team playing greedily. Under the frames: Q_tot, each agent's Q-value of what it does, and its credit
dQ_tot / dQ_i over time, in the agent's colour, so that one sees who matters when. Independent learners have no Q_tot;
their film shows Q_i over time.

FILE.gif and FILE.mp4 are films, the episodes one after another; FILE.png is a figure for papers: moments of the
episode above the same values over time. MP4 wants the extra `video` (pip install 'qmix-jax[video]')."""

EXAMPLES = """\
examples
  qmix-jax render RUN
  qmix-jax render RUN --episodes 3 --seed 7 --out battle.mp4
  qmix-jax render RUN --out figure.png"""


def main(arguments: list[str]) -> int:
    """Render as the command line says; returns the exit status."""
    options = parse(arguments)
    start_jax([AUTO])
    from qmix_jax.film import credit
    from qmix_jax.run.checkpoint import load_run

    run = load_run(options.run, options.checkpoint)
    out = options.out or output(str(Path(options.run) / "render.gif"))
    if out.suffix.lower() == ".mp4":
        from qmix_jax.film.mp4 import require_video

        require_video()
    team, teams = options.team, run.config.num_seeds
    require(team is None or team < teams, f"--team {team}: the run has {teams} team{'s' * (teams > 1)}, counted from 0")
    team = best_team(run, Path(options.run)) if team is None else team
    with Progress() as progress:
        progress.say("playing", is_stage=True)
        recordings = play(run, team, options.seed, options.episodes)
        progress.say("painting", is_stage=True)
        credit.write(run.config.env.name, recordings, out)
    for number, recording in enumerate(recordings, 1):
        print(f"episode {number}: {credit.Account(recording).verdict}")
    print(out)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = run_parser("render", DESCRIPTION, EXAMPLES)
    parser.add_argument("--episodes", type=count_from(1), default=1, metavar="N", help="how many (default 1)")
    parser.add_argument(
        "--out", type=picture, metavar="FILE", help=f"what to write: {', '.join(SUFFIXES)} (default RUN/render.gif)"
    )
    parser.add_argument(
        "--team",
        type=count_from(0),
        metavar="K",
        help="of a run of several seeds, the team of seed number K, from 0 (default: the last evaluation's best)",
    )
    return parser.parse_args(arguments)


def picture(text: str) -> Path:
    """An argument's type: a file whose name says which kind of picture it is."""
    path = output(text)
    if path.suffix.lower() not in SUFFIXES:
        raise argparse.ArgumentTypeError(f"{path.name} must end in {', '.join(SUFFIXES)}")
    return path


def best_team(run: "TrainedRun", folder: Path) -> int:
    """The seed, counted from 0, whose last evaluation was best; the first where nothing is recorded."""
    from qmix_jax.records import best_seed, read_metrics

    path = folder / "metrics.jsonl"
    rows = read_metrics(path) if run.config.num_seeds > 1 and path.is_file() else []
    return best_seed(rows[-1]) if rows else 0


def play(run: "TrainedRun", team: int, seed: int, episodes: int) -> "list[Recording]":
    """The first episodes that `evaluate` plays with that team and seed."""
    import jax

    from qmix_jax.film.film import Recording
    from qmix_jax.learning.evaluate import episode_keys, record, team_key
    from qmix_jax.mixers import make_mixer
    from qmix_jax.run.program import compile_quickly

    mixer, params = make_mixer(run.config.algorithm, run.env), run.params(team)
    keys = episode_keys(team_key(seed, team), episodes)
    played = jax.jit(lambda params, keys: record(run.env, run.agents, mixer, params, keys))
    result = jax.device_get(compile_quickly(played.lower(params, keys))(params, keys))
    spec, title = run.env.spec, f"{run.config.algorithm.name.upper()} on {run.env.spec.name}"
    return [
        Recording.cut(
            result, episode, has_wins="win_rate" in result.episodes.metrics, title=title, agent_names=spec.agent_names
        )
        for episode in range(episodes)
    ]
