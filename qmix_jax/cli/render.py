"""`qmix-jax render RUN`: films and figures of a trained team, with Q-values and credit."""

import argparse
from pathlib import Path

from qmix_jax.cli.arguments import Progress, count_from, output, run_parser
from qmix_jax.run import startup
from qmix_jax.settings import require

SUFFIXES = (".gif", ".mp4", ".png")

DESCRIPTION = """\
Film a trained team playing greedily. Under the frames: Q_tot, each agent's Q-value of its action, and its credit
dQ_tot / dQ_i over time, in the agent's colour, which show when each agent matters. Independent learners have no Q_tot;
their film shows Q_i over time.

FILE.gif and FILE.mp4 are films, the episodes one after another; FILE.png is a figure for papers: frames of each
episode above the same values over time. MP4 needs the extra `video` (pip install 'qmix-jax[video]')."""

EXAMPLES = """\
examples
  qmix-jax render RUN
  qmix-jax render RUN --episodes 3 --seed 7 --out battle.mp4
  qmix-jax render RUN --out figure.png"""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    options = parse(arguments)
    startup.start_jax([startup.AUTO])
    from qmix_jax.film.credit import EpisodeValues
    from qmix_jax.film.painter import painter_of
    from qmix_jax.run.films import best_team, play, write
    from qmix_jax.run.trained import load_run

    run = load_run(options.run, options.checkpoint)
    out = options.out or output(str(Path(options.run) / "render.gif"))
    if out.suffix.lower() == ".mp4":
        from qmix_jax.film.mp4 import require_video

        require_video()
    team, teams = options.team, run.config.num_seeds
    require(team is None or team < teams, f"--team {team}: the run has {teams} team{'s' * (teams > 1)}, counted from 0")
    team = best_team(run, Path(options.run)) if team is None else team
    with Progress() as progress:
        progress.stage("playing")
        recordings = play(run, team, options.seed, options.episodes)
        progress.stage("painting")
        write(painter_of(run.env), recordings, out)
    for number, recording in enumerate(recordings, 1):
        print(f"episode {number}: {EpisodeValues(recording).summary}")
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
    """An argument's type: a file whose ending is one of SUFFIXES."""
    path = output(text)
    if path.suffix.lower() not in SUFFIXES:
        raise argparse.ArgumentTypeError(f"{path.name} must end in {', '.join(SUFFIXES)}")
    return path
