"""`qmix-jax evaluate RUN`: scores of a trained team, also under disturbances."""

import argparse
import dataclasses
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmix_jax.build import environments, make_env
from qmix_jax.cli.arguments import Progress, count_from, output, run_parser
from qmix_jax.cli.disturbances import Kind, add_disturbances, idle_action, kinds_of
from qmix_jax.run import startup
from qmix_jax.settings import ConfigError, require_one_of

if TYPE_CHECKING:
    from qmix_jax.agents.base import Agents
    from qmix_jax.analysis.scores import Scores, SeverityTable
    from qmix_jax.envs.base import TeamEnv
    from qmix_jax.learning.robustness import Disturbance, ParallelEvaluator
    from qmix_jax.run.trained import TrainedRun
    from qmix_jax.types import Behaviour, TeamSpec

STDOUT = Path("-")

DESCRIPTION = """\
Score a trained team: greedy episodes, one an environment, exactly --episodes of them, with the mean and its 95 %
interval of win rate (where there is one), return and length. Needs the run's folder and nothing else.

Intervals: Wilson's of a win rate, a bootstrap over episodes otherwise. A run of several seeds plays --episodes with
each; its bootstrap draws seeds, and of each its own episodes, and a win rate's is no narrower than Wilson's.
All rows of a table play the same initial states, so that they are comparable."""

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
    startup.start_jax([startup.AUTO])
    from qmix_jax.analysis.scores import agents_to_plain, format_agents
    from qmix_jax.learning.robustness import ParallelEvaluator
    from qmix_jax.run.trained import load_run

    began = time.perf_counter()
    run = load_run(options.run, options.checkpoint)
    env, agents = (run.env, run.agents) if options.map is None else on_map(run, options.map)
    kinds, idle = kinds_of(options, env.spec), idle_action(options, env.spec)
    evaluator = ParallelEvaluator(env, agents, options.episodes, bool(kinds), idle)
    with Progress() as progress:
        scorer = Scorer(run, evaluator, options.seed, progress)
        scores, tables = score_all(scorer, kinds)
        behaviour = watch_agents(scorer) if options.agents else None
    document = to_document(options, scorer, scores, tables) | {"seconds": round(time.perf_counter() - began, 2)}
    if behaviour:
        document["agents"] = agents_to_plain(behaviour, env.spec.agent_names)
    if options.json != STDOUT:
        print(to_text(document, scores, tables))
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
        "--map", metavar="MAP", help="test on another map or task: of the same sizes, or any with transformers"
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
    add_disturbances(parser)
    return parser.parse_args(arguments)


# --- another map -------------------------------------------------------------------------------------------------


def on_map(run: "TrainedRun", name: str) -> "tuple[TeamEnv, Agents]":
    """The run's environment on another map, with the team; raises ConfigError where the team does not fit."""
    config = run.config.env
    known = environments()[config.name]
    if known.variant is None or known.variant not in vars(config.settings):
        raise ConfigError(f"--map={name}: the run was trained on the {run.env.spec.name}, which has no maps")
    require_one_of("--map", name, known.variants)
    settings = dataclasses.replace(config.settings, **{known.variant: name})
    env = make_env(dataclasses.replace(config, settings=settings))
    agents = run.agents_in(env)
    if agents is None:
        differences = shape_differences(run.env.spec, env.spec) or "other entities"
        raise ConfigError(f"--map={name} does not fit a team of {run.env.spec.name}: it has {differences}")
    return env, agents


def shape_differences(trained: "TeamSpec", other: "TeamSpec") -> str:
    """The sizes of the other environment that do not fit the team, as text; empty where all fit."""
    sizes = {
        "{} agents": (other.num_agents, trained.num_agents),
        "observations of {} numbers": (other.obs_size, trained.obs_size),
        "{} actions": (other.num_actions, trained.num_actions),
    }
    return ", ".join(f"{text.format(new)} instead of {old}" for text, (new, old) in sizes.items() if new != old)


# --- playing -----------------------------------------------------------------------------------------------------


@dataclass
class Scorer:
    """Scores the teams of all the run's seeds, and reports its progress."""

    run: "TrainedRun"
    evaluator: "ParallelEvaluator"
    seed: int
    progress: Progress

    def score(self, disturbance: "Disturbance | None" = None) -> "Scores":
        """The scores under a disturbance."""
        from qmix_jax.run.scoring import score

        return score(self.run, self.evaluator, self.seed, disturbance, self.progress.advance)


def watch_agents(scorer: Scorer) -> "Behaviour":
    """The behaviour of the agents of all the run's seeds in the undisturbed episodes."""
    from qmix_jax.build import make_mixer
    from qmix_jax.learning.behaviour import observe
    from qmix_jax.learning.evaluate import team_key

    scorer.progress.stage("watching the agents")
    run, evaluator = scorer.run, scorer.evaluator
    teams = [(run.params(i), team_key(scorer.seed, i)) for i in range(run.config.num_seeds)]
    mixer = make_mixer(run.config.algorithm, evaluator.env)
    return observe(evaluator.env, evaluator.agents, mixer, teams, evaluator.episodes)


def score_all(scorer: Scorer, kinds: list[Kind]) -> "tuple[Scores, list[SeverityTable]]":
    """The undisturbed scores, and a table for each kind that begins with them."""
    from qmix_jax.analysis.scores import SeverityRow, SeverityTable

    plays = 1 + sum(len(kind.trials) for kind in kinds)
    episodes = plays * scorer.evaluator.episodes * scorer.run.config.num_seeds
    scorer.progress.stage(f"playing {episodes:,} episodes", episodes)
    calm = scorer.score()
    tables = []
    for name, title, word, zero, trials in kinds:
        disturbed = [SeverityRow(severity, scorer.score(disturbance)) for severity, disturbance in trials]
        tables.append(SeverityTable(name, title, word, [SeverityRow(zero, calm), *disturbed]))
    return calm, tables


# --- results -----------------------------------------------------------------------------------------------------


def to_document(
    options: argparse.Namespace, scorer: Scorer, scores: "Scores", tables: "list[SeverityTable]"
) -> dict[str, Any]:
    """The results as plain containers."""
    from qmix_jax.analysis.scores import to_plain

    run, config = scorer.run, scorer.run.config
    return {
        "run": options.run,
        "checkpoint": options.checkpoint,
        "env_steps": run.env_steps,
        "algorithm": config.algorithm.title,
        "trained_on": run.env.spec.name,
        "tested_on": scorer.evaluator.env.spec.name,
        "episodes": options.episodes,
        "seed": options.seed,
        "trained_seeds": [config.seed + i for i in range(config.num_seeds)],
        "scores": to_plain(scores),
        "tables": {
            table.name: [{"severity": row.severity, **to_plain(row.scores)} for row in table.rows] for table in tables
        },
    }


def to_text(document: dict[str, Any], scores: "Scores", tables: "list[SeverityTable]") -> str:
    """The results as text."""
    from qmix_jax.analysis.scores import format_scores, format_table

    place, trained = document["tested_on"], document["trained_on"]
    where = trained if place == trained else f"{trained}, tested on {place}"
    seeds, episodes = len(document["trained_seeds"]), document["episodes"]
    heading = (
        f"{document['algorithm'].upper()} on {where}, checkpoint {document['checkpoint']} "
        f"(step {document['env_steps']:,}): "
        f"{episodes:,} greedy episode{'s' * (episodes > 1)}{f' of each of {seeds} seeds' if seeds > 1 else ''}"
    )
    return "\n\n".join(["\n".join([heading, format_scores(scores)]), *map(format_table, tables)])


def write_json(document: dict[str, Any], target: Path) -> None:
    """Write the document to stdout or, atomically, to a file; lists of numbers stand on one line."""
    lists = r'\[\n\s*([^][{}"]*?)\s*\]'
    text = re.sub(lists, lambda found: f"[{' '.join(found[1].split())}]", json.dumps(document, indent=2))
    if target == STDOUT:
        print(text)
    else:
        from qmix_jax.files import write_file

        write_file(target, text + "\n")
