"""All methods on games with known solutions: trains what is missing, then writes results.md and games.png.

python experiments/games/run.py                                        # every game, every algorithm, 10 seeds
python experiments/games/run.py --games two_step qtran --algorithms vdn qmix
python experiments/games/run.py total_env_steps=20_000 --runs /tmp/x   # settings as for qmix-jax train

Each run is a folder below --runs. A finished run with the same settings is not repeated.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from figure import draw_games
from tables import q_tables

from qmix_jax.cli.compose import compose
from qmix_jax.cli.main import main as qmix_jax
from qmix_jax.files import write_file
from qmix_jax.mixers import MIXERS
from qmix_jax.records import read_metrics
from qmix_jax.run.checkpoint import checkpoints
from qmix_jax.run.trained import load_run
from qmix_jax.statistics import Estimate, interquartile_mean_interval, share_interval
from qmix_jax.untrusted import read_settings

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Game:
    """A game and its solution."""

    overrides: str
    best: float
    """The largest possible return."""
    solved: float
    """A seed with at least this return has solved the game."""
    paths: tuple[tuple[tuple[int, int], ...], ...] = ()
    """The joint actions that lead to each state whose Q_tot table is shown."""
    algorithms: tuple[str, ...] = tuple(MIXERS)
    """The algorithms that are trained on it."""


def one_step(overrides: str, best: float) -> Game:
    return Game(f"+preset=games {overrides}", best, best - 1e-3, ((),))


def of_algorithm(name: str, game: Game) -> list[str]:
    """The algorithm, and for QPLEX the sizes that solve games of one step (see conf/preset/games.yaml)."""
    is_small_qplex = name == "qplex" and game.paths == ((),)
    sizes = ["num_heads=10", "num_layers=2", "init_scale=1"] if is_small_qplex else []
    return [f"algorithm={name}", *(f"algorithm.{size}" for size in sizes)]


def hunt(punishment: float) -> Game:
    """Predator-prey, solved with three quarters of the prey; too many joint actions for tables."""
    return Game(f"env=predator_prey env.punishment={punishment}", 40, 30, algorithms=HUNTERS)


HUNTERS = ("vdn", "qmix", "qplex", "cw_qmix", "ow_qmix")
"""The algorithms that papers compare on predator-prey; each trains for minutes."""
PUNISHMENTS = (0, -0.5, -1, -1.5, -2)
GAMES = {
    "two_step": Game("env=two_step", 8, 8 - 1e-3, ((), ((0, 0),), ((1, 0),))),
    "qtran": one_step("env=matrix", 8),
    "qplex_harder": one_step("env=qplex_game env.game=harder", 8),
    "qplex_flat": one_step("env=qplex_game env.game=flat", 10.4),
    "climbing": one_step("env=climbing", 11),
    **{f"penalty_{k}": one_step(f"env=penalty env.k={k}", 10) for k in (0, -25, -50, -75, -100)},
    **{f"predator_prey_{p:g}": hunt(p) for p in PUNISHMENTS},
}


@dataclass(frozen=True)
class Result:
    """One algorithm on one game."""

    game: str
    algorithm: str
    returns: np.ndarray
    """(seeds,) of greedy play at the end."""
    env_steps: int
    tables: list[np.ndarray]
    """Q_tot of each joint action, the mean over seeds, in each of the game's states; none for independent learners."""

    @property
    def greedy_return(self) -> Estimate:
        return interquartile_mean_interval([self.returns])

    @property
    def share(self) -> Estimate:
        """The share of seeds that solved the game."""
        return share_interval(int((self.returns >= GAMES[self.game].solved).sum()), len(self.returns))


# --- training ----------------------------------------------------------------------------------------------------


def train(folder: Path, overrides: list[str]) -> int:
    """Train unless the run is finished; returns the exit status."""
    if is_finished(folder, compose(overrides)):
        return 0
    if (folder / "metrics.jsonl").exists():
        shutil.rmtree(folder)  # interrupted, or of other settings
    print(f"{folder}: qmix-jax train {' '.join(overrides)}", flush=True)
    return qmix_jax(["train", *overrides, f"hydra.run.dir={folder}"])


def is_finished(folder: Path, settings: dict) -> bool:
    if not checkpoints(folder):
        return False
    return (
        read_settings(folder) == settings
        and read_metrics(folder / "metrics.jsonl")[-1]["env_steps"] >= settings["total_env_steps"]
    )


def read_result(folder: Path, game: str, algorithm: str) -> Result:
    row = read_metrics(folder / "metrics.jsonl")[-1]
    paths = GAMES[game].paths if algorithm != "iql" else ()
    tables = q_tables(load_run(folder), paths) if paths else []
    return Result(game, algorithm, np.array(row["eval/return"]), row["env_steps"], tables)


# --- results -----------------------------------------------------------------------------------------------------


def to_markdown(results: Sequence[Result]) -> str:
    lines = [
        "# Games with known answers",
        "",
        f"Written by `{' '.join(['python experiments/games/run.py', *sys.argv[1:]])}`.",
        "",
        "Greedy return at the end: interquartile mean over seeds [95 % bootstrap interval]. Solved: the share of",
        "seeds at the best return (predator-prey: 30 of 40 or more) [95 % Wilson interval]. Exploration is uniform",
        "throughout in the games of one and two steps.",
        "",
        "| game | best | algorithm | seeds | steps | greedy return | solved % |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        cells = [result.game, f"{GAMES[result.game].best:g}", result.algorithm, str(len(result.returns))]
        cells += [f"{result.env_steps:,}", show(result.greedy_return, 2), show(result.share, 0, 100)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "![shares, tables and returns](games.png)", "", *_tables_section(results)]
    return "\n".join(lines) + "\n"


def _tables_section(results: Sequence[Result]) -> list[str]:
    lines = ["## Learned Q_tot", "", "The mean over seeds; rows are the first agent's actions.", ""]
    lines += ["| game | algorithm | Q_tot |", "| --- | --- | --- |"]
    for result in results:
        if result.tables:
            lines.append(f"| {result.game} | {result.algorithm} | {' then '.join(map(_table_text, result.tables))} |")
    return lines


def _table_text(table: np.ndarray) -> str:
    return "[" + ", ".join("[" + ", ".join(f"{x:z.2f}" for x in row) + "]" for row in table) + "]"


def show(estimate: Estimate, digits: int, factor: float = 1) -> str:
    value, low, high = (f"{factor * x:.{digits}f}" for x in estimate)
    return f"{value} [{low}, {high}]"


# --- the command -------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", nargs="+", choices=list(GAMES), default=list(GAMES), metavar="GAME")
    parser.add_argument("--algorithms", nargs="+", choices=list(MIXERS), default=list(MIXERS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/games"), help="the folder of the runs (default: runs/games)"
    )
    parser.add_argument(
        "--out", type=Path, default=HERE, help="the folder of results.md and games.png (default: beside this script)"
    )
    parser.add_argument("overrides", nargs="*", help="settings for every run, such as devices=1")
    options = parser.parse_intermixed_args()
    chosen = [(game, name) for game in options.games for name in options.algorithms if name in GAMES[game].algorithms]
    if not chosen:
        known = {name for game in options.games for name in GAMES[game].algorithms}
        parser.error(f"these games are played by {', '.join(name for name in MIXERS if name in known)}")
    results = []
    for game, algorithm in chosen:
        folder = options.runs / f"{game}-{algorithm}"
        settings = [*GAMES[game].overrides.split(), *of_algorithm(algorithm, GAMES[game])]
        settings += [f"num_seeds={options.seeds}", "logging.film=false", *options.overrides]
        status = train(folder, settings)
        if status:
            return status
        results.append(read_result(folder, game, algorithm))
    write_file(options.out / "results.md", to_markdown(results))
    draw_games(results, options.out / "games.png")
    print(f"Written to {options.out}: results.md, games.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
