"""`qmix-jax evaluate RUN`: scores of a trained team, and what they become when something goes wrong."""

import argparse
import dataclasses
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qmix_jax.cli.arguments import Progress, count_from, output, run_parser
from qmix_jax.cli.startup import AUTO, start_jax
from qmix_jax.config import ConfigError, MpeConfig, SmaxConfig, choose, require

if TYPE_CHECKING:
    from qmix_jax.agents import Agents
    from qmix_jax.analysis.scores import Scores, Table
    from qmix_jax.envs.base import TeamEnv
    from qmix_jax.learning.behaviour import Behaviour
    from qmix_jax.learning.robustness import Disturbance, ParallelEvaluator
    from qmix_jax.run.checkpoint import TrainedRun
    from qmix_jax.types import TeamSpec

STDOUT = Path("-")
EACH = "each"
NOISE, REPLACED = (0.05, 0.1, 0.2, 0.5), (0.1, 0.25, 0.5, 1.0)

DESCRIPTION = """\
Score a trained team: greedy episodes, one an environment, exactly as many as asked for, with the mean and its 95 %
interval of win rate (where there is one), return and length. Needs the run's folder and nothing else.

Intervals: Wilson's of a win rate, a bootstrap over episodes otherwise. A run of several seeds plays --episodes with
each; its bootstrap draws seeds, and of each its own episodes, and a win rate's is no narrower than Wilson's.
Every severity of a table is played from the same starts, so that rows compare."""

EXAMPLES = """\
examples
  qmix-jax evaluate RUN
  qmix-jax evaluate RUN --episodes 4096 --seed 7 --json scores.json
  qmix-jax evaluate RUN --agents
  qmix-jax evaluate RUN --map smacv2_5_units
  qmix-jax evaluate RUN --noise --replace 0.1,0.3 --remove each"""


def main(arguments: list[str]) -> int:
    """Evaluate as the command line says; returns the exit status."""
    options = parse(arguments)
    start_jax([AUTO])
    from qmix_jax.analysis.scores import agents_to_plain, format_agents, to_plain
    from qmix_jax.learning.robustness import ParallelEvaluator
    from qmix_jax.run.checkpoint import load_run

    run = load_run(options.run, options.checkpoint)
    env, agents = (run.env, run.agents) if options.map is None else on_map(run, options.map)
    kinds, idle, seeds = kinds_of(options, env.spec), idle_action(options, env.spec), run.config.num_seeds
    examination = ParallelEvaluator(env, agents, options.episodes, bool(kinds), idle)
    plays = 1 + sum(len(kind.trials) for kind in kinds)
    began = time.perf_counter()
    with Progress() as progress:
        scorer = Scorer(run, examination, options.seed, progress, total=plays * options.episodes * seeds)
        scores, tables = score_all(scorer, kinds)
        behaviour = watch_agents(scorer) if options.agents else None
    document = {
        "run": options.run,
        "checkpoint": options.checkpoint,
        "algorithm": run.config.algorithm.name,
        "trained_on": run.env.spec.name,
        "tested_on": env.spec.name,
        "episodes": options.episodes,
        "seed": options.seed,
        "trained_seeds": [run.config.seed + i for i in range(seeds)],
        "seconds": round(time.perf_counter() - began, 2),
        "scores": to_plain(scores),
        "tables": {
            table.name: [{"severity": row.severity, **to_plain(row.scores)} for row in table.rows] for table in tables
        },
        **({"agents": agents_to_plain(behaviour, env.spec.agent_names)} if behaviour else {}),
    }
    if options.json != STDOUT:
        print(in_words(document, scores, tables))
        if behaviour:
            print("\n" + format_agents(behaviour, env.spec.agent_names))
    if options.json:
        write_json(document, options.json)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = run_parser("evaluate", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--episodes", type=count_from(1), default=1024, metavar="N", help="episodes of each seed (default 1024)"
    )
    parser.add_argument(
        "--map", metavar="MAP", help="test on another map (or MPE task): of the same sizes, or any with transformers"
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const=str(STDOUT),
        type=output,
        metavar="FILE",
        help="one JSON document, with every episode, to FILE, beside the tables; without FILE to stdout, instead",
    )
    parser.add_argument(
        "--agents",
        action="store_true",
        help="a table of what each agent does: Q-value, credit dQ_tot / dQ_i, share of each action (plays once more)",
    )
    wrong = parser.add_argument_group("when something goes wrong (a table of scores against severity each)")
    wrong.add_argument(
        "--noise",
        nargs="?",
        const=NOISE,
        default=(),
        type=severities(None),
        metavar="STD,...",
        help=f"normal noise on every number of every observation (default {_list(NOISE)})",
    )
    wrong.add_argument(
        "--replace",
        nargs="?",
        const=REPLACED,
        default=(),
        type=severities(1.0),
        metavar="SHARE,...",
        help=f"this share of the actions replaced by random legal ones (default {_list(REPLACED)})",
    )
    wrong.add_argument(
        "--remove",
        nargs="?",
        const=EACH,
        metavar="AGENT",
        help="one agent takes no part: the one named, or each in turn (default)",
    )
    wrong.add_argument(
        "--removed",
        choices=("idle", "random"),
        help="what a removed agent does: nothing (the default where that is an action) or random legal actions",
    )
    return parser.parse_args(arguments)


def severities(most: float | None) -> Callable[[str], tuple[float, ...]]:
    """An argument's type: numbers from 0 (to `most`) with commas between."""

    def numbers(text: str) -> tuple[float, ...]:
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError as error:
            raise argparse.ArgumentTypeError(
                f"'{text}' must be numbers with commas between, such as 0.1,0.5"
            ) from error
        top = float("inf") if most is None else most
        if not all(0 <= value <= top and value < float("inf") for value in values):
            bounds = "0 or more" if most is None else f"between 0 and {most:g}"
            raise argparse.ArgumentTypeError(f"'{text}' must be {bounds}")
        return values

    return numbers


def _list(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


# --- another map -------------------------------------------------------------------------------------------------


def on_map(run: "TrainedRun", name: str) -> "tuple[TeamEnv, Agents]":
    """The run's environment on another map, and the team there; raises ConfigError where it could not play."""
    from qmix_jax.envs import make_env

    settings = run.config.env.settings
    if isinstance(settings, SmaxConfig):
        from qmix_jax.envs.jaxmarl import SMAX_MAPS

        choose("--map", name, SMAX_MAPS)
        settings = dataclasses.replace(settings, map=name)
    elif isinstance(settings, MpeConfig):
        from qmix_jax.envs.jaxmarl import MPE_TASKS

        choose("--map", name, list(MPE_TASKS))
        settings = dataclasses.replace(settings, task=name)
    else:
        raise ConfigError(f"--map={name}: the run was trained on the {run.env.spec.name}, which has no maps")
    env = make_env(dataclasses.replace(run.config.env, settings=settings))
    agents = run.agents_in(env)
    if agents is None:
        differences = shape_differences(run.env.spec, env.spec) or "other entities"
        raise ConfigError(f"--map={name} does not fit a team of {run.env.spec.name}: it has {differences}")
    return env, agents


def shape_differences(trained: "TeamSpec", other: "TeamSpec") -> str:
    """What keeps a team from acting in the other environment, in words; empty where nothing does."""
    sizes = {
        "{} agents": (other.num_agents, trained.num_agents),
        "observations of {} numbers": (other.obs_size, trained.obs_size),
        "{} actions": (other.num_actions, trained.num_actions),
    }
    return ", ".join(f"{words.format(new)} instead of {old}" for words, (new, old) in sizes.items() if new != old)


# --- what goes wrong ---------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """One kind of disturbance, at several severities."""

    name: str
    title: str
    severity: str
    zero: float | str
    """The severity of the undisturbed team."""
    trials: "list[tuple[float | str, Disturbance]]"


def kinds_of(options: argparse.Namespace, spec: "TeamSpec") -> list[Kind]:
    """What the command line asks for."""
    import jax.numpy as jnp

    from qmix_jax.learning.robustness import undisturbed

    calm, names = undisturbed(spec.num_agents), spec.agent_names
    kinds = [
        Kind("observation_noise", "Noise on observations", "deviation", 0.0, [
            (std, calm._replace(noise=jnp.array(std))) for std in options.noise if std
        ]),
        Kind("replaced_actions", "Actions replaced by random legal ones", "share", 0.0, [
            (share, calm._replace(replaced=jnp.array(share))) for share in options.replace if share
        ]),
        Kind("removed_agent", f"One agent removed ({_what_it_does(options, spec)})", "agent", "none", [
            (name, calm._replace(removed=jnp.arange(len(names)) == names.index(name)))
            for name in removed_agents(options, spec)
        ]),
    ]  # fmt: skip
    return [kind for kind in kinds if kind.trials]


def removed_agents(options: argparse.Namespace, spec: "TeamSpec") -> tuple[str, ...]:
    """The names of the agents that are removed in turn."""
    require(options.remove or not options.removed, f"--removed={options.removed} wants --remove with it")
    if options.remove in (None, EACH):
        return spec.agent_names if options.remove else ()
    choose("--remove", options.remove, [EACH, *spec.agent_names])
    return (options.remove,)


def idle_action(options: argparse.Namespace, spec: "TeamSpec") -> int | None:
    """What a removed agent does; None: random legal actions."""
    is_possible = options.removed != "idle" or spec.idle_action is not None
    require(is_possible, f"--removed=idle: no action does nothing in {spec.name}; write --removed random")
    return None if options.removed == "random" else spec.idle_action


def _what_it_does(options: argparse.Namespace, spec: "TeamSpec") -> str:
    return "it acts at random" if idle_action(options, spec) is None else "it does nothing"


# --- playing -----------------------------------------------------------------------------------------------------


@dataclass
class Scorer:
    """Scores the teams of all the run's seeds, and tells how far it is."""

    run: "TrainedRun"
    examination: "ParallelEvaluator"
    seed: int
    progress: Progress
    total: int
    """Episodes to play, over all severities and seeds."""
    done: int = 0
    began: float = 0.0

    def score(self, disturbance: "Disturbance | None" = None) -> "Scores":
        """The scores under a disturbance."""
        from qmix_jax.analysis.scores import scores_of
        from qmix_jax.learning.evaluate import team_key

        if not self.done:
            self.progress.say(f"compiling; {self.total:,} episodes to play", is_stage=True)
        played = [
            self.examination.play(self.run.params(i)["agent"], team_key(self.seed, i), disturbance, self._tell)
            for i in range(self.run.config.num_seeds)
        ]
        return scores_of(played, "win_rate" in played[0].metrics)

    def _tell(self, episodes: int) -> None:
        self.began = self.began or time.monotonic()
        self.done += episodes
        self.progress.say(f"{self.done:,} of {self.total:,} episodes ({self.done / self.total:.0%}){self._left()}")

    def _left(self) -> str:
        """The time left at the speed since the first batch, which compiled."""
        from qmix_jax.reporters.display import duration

        share = self.done / self.total
        seconds = (time.monotonic() - self.began) * (1 - share) / share
        return f", {duration(seconds)} left" if seconds > 1 else ""


def watch_agents(scorer: Scorer) -> "Behaviour":
    """What the agents of all the run's seeds do in the undisturbed episodes."""
    from qmix_jax.learning.behaviour import observe
    from qmix_jax.learning.evaluate import team_key
    from qmix_jax.mixers import make_mixer

    scorer.progress.say("watching the agents", is_stage=True)
    run, examination = scorer.run, scorer.examination
    teams = [(run.params(i), team_key(scorer.seed, i)) for i in range(run.config.num_seeds)]
    mixer = make_mixer(run.config.algorithm, examination.env)
    return observe(examination.env, examination.agents, mixer, teams, examination.episodes)


def score_all(scorer: Scorer, kinds: list[Kind]) -> "tuple[Scores, list[Table]]":
    """The undisturbed scores, and a table for each kind that begins with them."""
    from qmix_jax.analysis.scores import Row, Table

    calm = scorer.score()
    tables = [
        Table(name, title, word, [Row(zero, calm), *(Row(severity, scorer.score(it)) for severity, it in trials)])
        for name, title, word, zero, trials in kinds
    ]
    return calm, tables


# --- telling -----------------------------------------------------------------------------------------------------


def in_words(document: dict[str, Any], scores: "Scores", tables: "list[Table]") -> str:
    """The document for people."""
    from qmix_jax.analysis.scores import format_scores, format_table

    place, trained = document["tested_on"], document["trained_on"]
    where = trained if place == trained else f"{trained}, tested on {place}"
    seeds, episodes = len(document["trained_seeds"]), document["episodes"]
    heading = (
        f"{document['algorithm'].upper()} on {where}, checkpoint {document['checkpoint']}: "
        f"{episodes:,} greedy episode{'s' * (episodes > 1)}{f' of each of {seeds} seeds' if seeds > 1 else ''}"
    )
    return "\n\n".join(["\n".join([heading, format_scores(scores)]), *map(format_table, tables)])


def _on_one_line(found: re.Match[str]) -> str:
    return f"[{' '.join(found[1].split())}]"


def write_json(document: dict[str, Any], target: Path) -> None:
    """To stdout or a file, which is written whole; lists of numbers stand on one line."""
    text = re.sub(r'\[\n\s*([^][{}"]*?)\s*\]', _on_one_line, json.dumps(document, indent=2))
    if target == STDOUT:
        print(text)
    else:
        from qmix_jax.records import write_text_atomically

        write_text_atomically(target, text + "\n")
