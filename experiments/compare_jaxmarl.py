"""Compare training with JaxMARL's QMIX (baselines/QLearning/qmix_rnn.py of a checkout), side by side on one machine.

    git clone https://github.com/FLAIROx/JaxMARL
    pip install flashbax six                                                   # what its script needs besides
    python experiments/compare_jaxmarl.py JaxMARL                              # steps/s and compile time, same work
    python experiments/compare_jaxmarl.py JaxMARL --seeds 8 --case 3m          # eight seeds in one program
    python experiments/compare_jaxmarl.py JaxMARL --time-to-score              # seconds until a score is reached
    python experiments/compare_jaxmarl.py JaxMARL --own-settings               # what each reaches as its authors run it
    python experiments/compare_jaxmarl.py JaxMARL --own-settings --algorithm pqn_vdn
    python experiments/compare_jaxmarl.py JaxMARL --memory                     # bytes of replay

Every measurement is a fresh process that compiles without a cache, and the two sides take turns. JaxMARL's script is
imported as it is, with the jaxmarl beside it; its YAML says the work, and this side is told the same:

- speed: JaxMARL's settings for simple_spread; for SMAX the same with GRU 64, mixer 32/64, one update a rollout (two
  replayed transitions an environment step) and 1,024 sequences of replay. This side runs the preset that translates
  them. The clock covers iterations in which both sides learn: for JaxMARL, whose run is one program, the difference
  between a long run and a short one.
- time to score: each side with its own settings but equal network sizes (GRU 64, mixer 32/64), from the start of the
  process, compiling included, to the first greedy evaluation at the goal (50 % wins; simple_spread -50).
- own settings: each side with its own settings and network sizes (of this side the defaults; PQN-VDN: the preset pqn,
  which was made for SMAX), for --limit-steps or --limit-seconds; JaxMARL's schedules are fractions of --limit-steps.
- memory: the settings of speed.
"""

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from compare_measure import SCRIPTS, USAGE_ERROR
from omegaconf import OmegaConf

from qmix_jax.files import write_json
from qmix_jax.records import describe_machine, read_metrics

OURS, PEER = "qmix_jax", "JaxMARL"
SMALL = {"HIDDEN_SIZE": 64, "MIXER_EMBEDDING_DIM": 32, "MIXER_HYPERNET_HIDDEN_DIM": 64}


class Goal(NamedTuple):
    """The score that ends a run, and what each side calls it."""

    value: float
    ours: str
    peer: str


@dataclass(frozen=True)
class Case:
    """A task in both sides' words."""

    family: str
    """JaxMARL's settings: how the names of their files in baselines/QLearning/config/alg end."""
    preset: str
    """This side's translation of them."""
    peer_task: dict[str, Any]
    group: str
    """This side's environment, and the setting that names the task."""
    task: str
    same_work: dict[str, Any]
    """What speed and memory change in JaxMARL's settings."""
    goal: Goal


def smax(name: str) -> Case:
    """A battle: wins count."""
    return Case(
        family="rnn_smax",
        preset="jaxmarl_smax",
        peer_task={"MAP_NAME": name},
        group="env=smax",
        task=f"env.map={name}",
        same_work={**SMALL, "NUM_EPOCHS": 1, "BUFFER_SIZE": 1024},
        goal=Goal(0.5, "eval/win_rate", "test_returned_won_episode"),
    )


CASES = {
    "3m": smax("3m"),
    "2s3z": smax("2s3z"),
    "3s5z": smax("3s5z"),
    "simple_spread": Case(
        family="rnn_mpe",
        preset="jaxmarl_mpe",
        peer_task={"ENV_NAME": "MPE_simple_spread_v3"},
        group="env=mpe",
        task="env.task=simple_spread",
        same_work={},
        goal=Goal(-50.0, "eval/return", "test_returned_episode_returns"),
    ),
}


OUR_ALGORITHMS = {"qmix": ["algorithm=qmix"], "pqn_vdn": ["+preset=pqn"]}
"""This side's overrides for an algorithm with its own settings."""
YAML = {"qmix": "ql", "pqn_vdn": "pqn_vdn"}
"""How the names of JaxMARL's settings for an algorithm begin."""


# --- the same work in both sides' words --------------------------------------------------------------------------


def peer_settings(arguments: argparse.Namespace, case: Case, changes: dict[str, Any]) -> dict[str, Any]:
    """JaxMARL's YAML for the case, then `changes`, then the command line's."""
    name = f"{YAML[arguments.algorithm]}_{case.family}.yaml"
    own = OmegaConf.load(arguments.checkout / "baselines/QLearning/config/alg" / name)
    episodes = arguments.eval_episodes
    common = {"WANDB_MODE": "disabled", "TEST_DURING_TRAINING": episodes > 0, "TEST_NUM_ENVS": episodes}
    merged: Any = OmegaConf.merge(own, case.peer_task, changes, common, OmegaConf.from_dotlist(arguments.set))
    return OmegaConf.to_container(merged)  # pyright: ignore[reportReturnType]


def rollout_steps(settings: dict[str, Any]) -> int:
    """Environment steps of one iteration of one seed."""
    return settings["NUM_ENVS"] * settings["NUM_STEPS"]


def network_sizes(settings: dict[str, Any]) -> list[str]:
    """This side's overrides for networks as large as JaxMARL's."""
    return [
        f"agent.hidden_size={settings['HIDDEN_SIZE']}",
        f"algorithm.embed_size={settings['MIXER_EMBEDDING_DIM']}",
        f"algorithm.hypernet_size={settings['MIXER_HYPERNET_HIDDEN_DIM']}",
    ]


def same_work(arguments: argparse.Namespace, case: Case, settings: dict[str, Any]) -> list[str]:
    """This side's overrides for the work that JaxMARL's settings ask for."""
    return [
        f"+preset={case.preset}",
        case.task,
        f"num_seeds={arguments.seeds}",
        f"devices={arguments.devices}",
        f"rollout.num_envs={settings['NUM_ENVS']}",
        f"rollout.num_steps={settings['NUM_STEPS']}",
        f"replay.capacity={settings['BUFFER_SIZE'] * settings['NUM_STEPS']}",
        f"learner.batch_size={settings['BUFFER_BATCH_SIZE']}",
        f"learner.env_steps_per_update={rollout_steps(settings) / settings['NUM_EPOCHS']}",
        f"learner.start_env_steps={settings['LEARNING_STARTS']}",
        *network_sizes(settings),
        f"evaluation.episodes={arguments.eval_episodes or settings['NUM_ENVS']}",
    ]


@dataclass(frozen=True)
class Schedule:
    """How long a measured run is. Both sides evaluate after every chunk of so many iterations."""

    chunk: int
    warm_chunks: int
    """Until both sides learn."""
    timed_chunks: int

    @classmethod
    def make(cls, settings: dict[str, Any], eval_every: int, timed_steps: int) -> "Schedule":
        """The schedule for JaxMARL's settings. JaxMARL's replay must hold a batch of rollouts before it learns."""
        rollout = rollout_steps(settings)
        chunk = math.ceil(eval_every / rollout)
        before_learning = max(settings["LEARNING_STARTS"] // rollout + 1, settings["BUFFER_BATCH_SIZE"])
        return cls(chunk, math.ceil(before_learning / chunk), math.ceil(timed_steps / (chunk * rollout)))

    @property
    def warm(self) -> int:
        """Iterations before the clock starts."""
        return self.warm_chunks * self.chunk

    @property
    def timed(self) -> int:
        """Iterations on the clock."""
        return self.timed_chunks * self.chunk


# --- measuring processes -----------------------------------------------------------------------------------------


def start(command: list[str], folder: Path) -> subprocess.Popen:
    """A Python process that finds no compiled programs; what it says goes to the folder's output.txt."""
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    with (folder / "output.txt").open("w") as output:
        return subprocess.Popen([sys.executable, *command], env=environment, stdout=output, stderr=subprocess.STDOUT)


def start_job(folder: Path, job: str, arguments: dict) -> subprocess.Popen:
    """A process that does a job of compare_measure.py."""
    order = {"job": job, "arguments": arguments, "result": str(folder / "result.json")}
    return start([str(Path(__file__).with_name("compare_measure.py")), json.dumps(order)], folder)


def refuse_failure(process: subprocess.Popen, folder: Path) -> None:
    """End the program, saying why, if the process failed."""
    said = (folder / "output.txt").read_text().strip()
    if process.returncode == USAGE_ERROR:
        raise SystemExit(said.splitlines()[-1])
    if process.returncode:
        raise SystemExit(f"{said[-3000:]}\na measuring process failed with status {process.returncode}")


def measure(job: str, **arguments: Any) -> dict:
    """The result of a job in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process = start_job(folder, job, arguments)
        try:
            process.wait()
        finally:
            process.kill()
        refuse_failure(process, folder)
        return json.loads((folder / "result.json").read_text())


def progress(line: str) -> None:
    """Tell the terminal what goes on; standard output keeps to the tables."""
    print(line, file=sys.stderr, flush=True)


def collect(comparison: dict, side: str, key: str) -> list[float]:
    """One number of every run of a side."""
    return [run[key] for run in comparison["runs"][side]]


def ratios(comparison: dict, key: str) -> list[float]:
    """qmix_jax over JaxMARL, each pair of runs by itself."""
    pairs = zip(collect(comparison, OURS, key), collect(comparison, PEER, key), strict=True)
    return [ours / peer for ours, peer in pairs]


def table(heads: list[str], rows: list[list]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


# --- speed -------------------------------------------------------------------------------------------------------


def compare_speed(arguments: argparse.Namespace, name: str) -> dict:
    """Both sides in turns; their steps/s over all seeds."""
    case = CASES[name]
    settings = peer_settings(arguments, case, case.same_work)
    schedule = Schedule.make(settings, arguments.eval_every, arguments.steps)
    rollout = rollout_steps(settings)
    overrides = [
        *same_work(arguments, case, settings),
        f"evaluation.every_env_steps={schedule.chunk * rollout}",
        f"total_env_steps={(schedule.warm + schedule.timed) * rollout}",
        *arguments.ours,
    ]
    ours = {"overrides": overrides, "warm_chunks": schedule.warm_chunks, "timed_chunks": schedule.timed_chunks}
    peer = {"checkout": str(arguments.checkout), "settings": settings, "seeds": arguments.seeds}
    peer |= {"chunk": schedule.chunk, "warm": schedule.warm, "timed": schedule.timed}
    runs: dict[str, list[dict]] = {OURS: [], PEER: []}
    for repeat in range(arguments.repeats):
        for side, job, what in ((OURS, "our_speed", ours), (PEER, "peer_speed", peer)):
            run = measure(job, **what)
            run["steps_per_second"] = schedule.timed * rollout * arguments.seeds / run["seconds"]
            runs[side].append(run)
            progress(f"{name}, {side}, {repeat + 1} of {arguments.repeats}: {run['steps_per_second']:,.0f} steps/s")
    comparison = {"case": name, "settings": settings, "overrides": overrides, "schedule": vars(schedule), "runs": runs}
    refuse_different_work(comparison)
    return comparison


def refuse_different_work(comparison: dict) -> None:
    """Both sides must have learnt, and equally often, while the clock ran."""
    updates = {side: collect(comparison, side, "updates") for side in (OURS, PEER)}
    if updates[OURS] != updates[PEER] or 0 in updates[OURS]:
        raise SystemExit(f"{comparison['case']}: not the same work; updates while the clock ran: {updates}")


def spread(values: list[float], form: str) -> str:
    """The median, and where there are several values the least and the largest."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:{form}}" + (f" [{low:{form}}, {high:{form}}]" if len(values) > 1 else "")


def describe_work(comparison: dict, arguments: argparse.Namespace) -> str:
    """What both sides did, for people."""
    settings, schedule = comparison["settings"], Schedule(**comparison["schedule"])
    rollout, updates = rollout_steps(settings), settings["NUM_EPOCHS"]
    batch, length = settings["BUFFER_BATCH_SIZE"], settings["NUM_STEPS"]
    episodes = arguments.eval_episodes or f"{settings['NUM_ENVS']} ({PEER}: none)"
    return (
        f"- {comparison['case']}: {settings['NUM_ENVS']} environments x {length} steps a rollout, then {updates} "
        f"update{'s' * (updates > 1)} of {batch} x {length} transitions ({updates * batch * length / rollout:.3g} "
        f"replayed a step); GRU {settings['HIDDEN_SIZE']}, mixer {settings['MIXER_EMBEDDING_DIM']}/"
        f"{settings['MIXER_HYPERNET_HIDDEN_DIM']}; replay {settings['BUFFER_SIZE'] * length:,} transitions; "
        f"every {schedule.chunk * rollout:,} steps {episodes} greedy episodes; on the clock: "
        f"{schedule.timed * rollout:,} steps and {comparison['runs'][OURS][0]['updates']:,} updates of each seed"
    )


def show_speed(comparisons: list[dict], arguments: argparse.Namespace) -> str:
    """The table of speed, and the work behind it."""
    rows = [
        [
            comparison["case"],
            arguments.seeds,
            *(spread(collect(comparison, side, "steps_per_second"), ",.0f") for side in (OURS, PEER)),
            spread(ratios(comparison, "steps_per_second"), ".2f"),
            *(spread(collect(comparison, side, "compile_seconds"), ".1f") for side in (OURS, PEER)),
        ]
        for comparison in comparisons
    ]
    heads = ["case", "seeds", f"{OURS} steps/s", f"{PEER} steps/s", "ratio", f"{OURS} compile s", f"{PEER} compile s"]
    devices = comparisons[0]["runs"][OURS][0]["devices"]
    note = (
        f"Steps/s over all seeds, median [least, largest] of {arguments.repeats}; {OURS} on {devices} "
        f"device{'s' * (devices > 1)}, {PEER} on one, as its script does."
    )
    return "\n".join([table(heads, rows), "", note, *(describe_work(each, arguments) for each in comparisons)])


# --- time to a score ---------------------------------------------------------------------------------------------


def compare_score(arguments: argparse.Namespace, name: str) -> dict:
    """Both sides in turns until each has reached the goal (own settings: none) or a limit; repeat i has seed i."""
    case, own = CASES[name], arguments.own_settings
    settings = peer_settings(arguments, case, {} if own else SMALL)
    goal = case.goal._replace(value=math.inf) if own else case.goal
    rollout = rollout_steps(settings)
    peer = {"checkout": str(arguments.checkout), "algorithm": arguments.algorithm, "settings": settings}
    peer |= {"score": goal.ours, "peer_score": goal.peer}
    peer |= {"chunk": math.ceil(arguments.eval_every / rollout), "iterations": arguments.limit_steps // rollout}
    overrides = [
        case.group,
        case.task,
        *OUR_ALGORITHMS[arguments.algorithm],
        *([] if own else network_sizes(settings)),
        f"devices={arguments.devices}",
        f"total_env_steps={arguments.limit_steps}",
        f"evaluation.every_env_steps={arguments.eval_every}",
        f"evaluation.episodes={arguments.eval_episodes}",
        "logging.display=none",
        "logging.film=false",
        *arguments.ours,
    ]

    def start_ours(folder: Path, seed: int) -> subprocess.Popen:
        return start(["-m", "qmix_jax", "train", *overrides, f"seed={seed}", f"hydra.run.dir={folder}"], folder)

    def start_peer(folder: Path, seed: int) -> subprocess.Popen:
        return start_job(folder, "peer_score", {**peer, "seed": seed, "folder": str(folder)})

    runs: dict[str, list[dict]] = {OURS: [], PEER: []}
    for seed in range(arguments.repeats):
        for side, starter in ((OURS, start_ours), (PEER, start_peer)):
            run = watch(starter, seed, goal, arguments.limit_seconds)
            runs[side].append(run)
            progress(f"{name}, {side}, seed {seed}: {describe_score(run)}")
    value = None if own else goal.value
    return {"case": name, "settings": settings, "overrides": overrides, "goal": value, "runs": runs}


def watch(starter: Callable[[Path, int], subprocess.Popen], seed: int, goal: Goal, limit_seconds: float) -> dict:
    """Follow the evaluations of a training process until one reaches the goal, the process ends, or its time is up."""
    with tempfile.TemporaryDirectory() as name:
        folder, began = Path(name), time.perf_counter()
        process = starter(folder, seed)
        try:
            while True:
                has_ended = process.poll() is not None
                run = judge(folder / "metrics.jsonl", goal, time.perf_counter() - began)
                if run["reached"] or has_ended or run["seconds"] > limit_seconds:
                    break
                time.sleep(0.1)
            if has_ended:
                refuse_failure(process, folder)
        finally:
            process.kill()
            process.wait()
    return run


def judge(path: Path, goal: Goal, seconds: float) -> dict:
    """What the evaluations say so far: whether the goal was reached, at which step, and the best score until then."""
    rows = read_metrics(path) if path.exists() else []
    scores = [-math.inf if row[goal.ours][0] is None else row[goal.ours][0] for row in rows]
    at = next((i for i, score in enumerate(scores) if score >= goal.value), len(rows) - 1)
    best = max(scores[: at + 1], default=-math.inf)
    env_steps = rows[at]["env_steps"] if rows else 0
    curve = [[row["env_steps"], score] for row, score in zip(rows, scores, strict=True)]
    return {"reached": best >= goal.value, "seconds": seconds, "env_steps": env_steps, "best": best, "curve": curve}


def describe_score(run: dict) -> str:
    """One run in words."""
    if run["reached"]:
        return f"{run['seconds']:.1f} s ({run['env_steps']:,} steps)"
    return f"not within {run['env_steps']:,} steps ({run['seconds']:.0f} s); best {run['best']:.2f}"


def by_seed(comparisons: list[dict]) -> Iterator[tuple[dict, int, dict, dict]]:
    """(comparison, seed, this side's run, JaxMARL's run), the rows of a table."""
    for each in comparisons:
        for seed, (ours, peer) in enumerate(zip(*each["runs"].values(), strict=True)):
            yield each, seed, ours, peer


def times_sooner(ours: dict, peer: dict) -> str:
    """How much sooner this side was; a bound where JaxMARL never was."""
    if not ours["reached"]:
        return "-"
    return ("" if peer["reached"] else "> ") + f"{peer['seconds'] / ours['seconds']:.1f}"


def show_score(comparisons: list[dict], arguments: argparse.Namespace) -> str:
    """The table of times, a row for each seed."""
    rows = [
        [each["case"], each["goal"], seed, describe_score(ours), describe_score(peer), times_sooner(ours, peer)]
        for each, seed, ours, peer in by_seed(comparisons)
    ]
    note = (
        f"From the start of the process, compiling included, to the first greedy evaluation at the goal "
        f"({arguments.eval_episodes} episodes every {arguments.eval_every:,} steps), networks of equal sizes; {OURS} "
        f"with devices={arguments.devices}, {PEER} on one device."
    )
    return "\n".join([table(["case", "goal", "seed", OURS, PEER, "times sooner"], rows), "", note])


def show_own(comparisons: list[dict], arguments: argparse.Namespace) -> str:
    """The table of what each side's own settings reach, a row for each seed."""

    def describe(run: dict) -> list[str]:
        last = f"{run['curve'][-1][1]:.2f}" if run["curve"] else "-"
        return [last, f"{run['best']:.2f}", f"{run['env_steps']:,}", f"{run['seconds']:.0f}"]

    rows = [[each["case"], seed, *describe(ours), *describe(peer)] for each, seed, ours, peer in by_seed(comparisons)]
    heads = [f"{side} {what}" for side in (OURS, PEER) for what in ("last", "best", "steps", "s")]
    note = (
        f"{arguments.algorithm}, each side with its own settings, for {arguments.limit_steps:,} steps or "
        f"{arguments.limit_seconds:,.0f} s, compiling included; greedy evaluation over {arguments.eval_episodes} "
        f"episodes every {arguments.eval_every:,} steps; {OURS} with devices={arguments.devices}, {PEER} on one device."
    )
    return "\n".join([table(["case", "seed", *heads], rows), "", note])


# --- memory ------------------------------------------------------------------------------------------------------


def compare_memory(arguments: argparse.Namespace, name: str) -> dict:
    """Bytes of both sides' replay for equally many transitions."""
    case = CASES[name]
    settings = peer_settings(arguments, case, case.same_work)
    overrides = [*same_work(arguments, case, settings), "num_seeds=1", *arguments.ours]
    ours = measure("our_memory", overrides=overrides)
    peer = measure("peer_memory", checkout=str(arguments.checkout), settings=settings)
    if ours["transitions"] != peer["transitions"]:
        raise SystemExit(f"{name}: replay holds {ours['transitions']} and {peer['transitions']} transitions")
    return {"case": name, "settings": settings, "overrides": overrides, "runs": {OURS: [ours], PEER: [peer]}}


def show_memory(comparisons: list[dict], arguments: argparse.Namespace) -> str:
    """The table of bytes."""
    del arguments
    rows = []
    for comparison in comparisons:
        (transitions,), (ratio,) = collect(comparison, OURS, "transitions"), ratios(comparison, "bytes")
        sides = [f"{collect(comparison, side, 'bytes')[0] / transitions:,.0f}" for side in (OURS, PEER)]
        rows.append([comparison["case"], f"{transitions:,}", *sides, f"{ratio:.2f}"])
    return table(["case", "transitions", f"{OURS} bytes a transition", f"{PEER} bytes a transition", "ratio"], rows)


# --- the command line --------------------------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    """Read the command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter, allow_abbrev=False)
    add = parser.add_argument
    add("checkout", type=Path, help="a checkout of JaxMARL (its main branch)")
    add("--case", nargs="+", choices=list(CASES), default=list(CASES), help="default: all")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--time-to-score", action="store_true", help="seconds to a score instead of speed")
    what.add_argument("--own-settings", action="store_true", help="what each side reaches with its own settings")
    what.add_argument("--memory", action="store_true", help="bytes of replay instead of speed")
    algorithms = f"own settings: {PEER}'s script, against this side's (default: qmix)"
    add("--algorithm", choices=list(SCRIPTS), default="qmix", help=algorithms)
    add("--seeds", type=int, default=1, help="speed: seeds in one program, on both sides (default: 1)")
    add("--repeats", type=int, default=3, help="processes of each side; where they score, their seeds (default: 3)")
    add("--devices", default="auto", help=f"{OURS}'s devices: auto or a number (default: auto)")
    add("--steps", type=int, default=300_000, help="speed: steps of each seed on the clock (default: 300000)")
    add("--eval-every", type=int, default=100_000, help="steps between evaluations (default: 100000)")
    no_evaluation = f"0: {PEER} does not evaluate, {OURS} plays one episode in each environment"
    add("--eval-episodes", type=int, default=128, help=f"of an evaluation (default: 128); {no_evaluation}")
    add("--limit-steps", type=int, default=2_000_000, help="of a run that scores (default: 2000000)")
    add("--limit-seconds", type=float, default=1_800, help="of a run that scores (default: 1800)")
    change = {"nargs": "+", "default": [], "metavar": "NAME=VALUE"}
    add("--set", **change, help=f"change {PEER}'s settings; in speed and memory {OURS} follows")
    add("--ours", **change, help=f"change {OURS}'s settings alone")
    add("--out", type=Path, metavar="FILE.json", help="also write every number, the versions and the hardware")
    arguments = parser.parse_args()
    script = arguments.checkout / SCRIPTS[arguments.algorithm]
    if not script.exists():
        parser.error(f"{script} does not exist; git clone https://github.com/FLAIROx/JaxMARL")
    if arguments.algorithm != "qmix" and not arguments.own_settings:
        parser.error(f"--algorithm {arguments.algorithm} needs --own-settings")
    if (arguments.time_to_score or arguments.own_settings) and arguments.eval_episodes < 1:
        parser.error("a score needs --eval-episodes of 1 or more")
    arguments.checkout = arguments.checkout.resolve()
    return arguments


def peer_versions(checkout: Path) -> dict:
    """What this side was compared with."""
    git = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True)
    return {"commit": git.stdout.strip() or None, "flashbax": metadata.version("flashbax")}


def main() -> None:
    """Compare, print the table, and write the numbers."""
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the measuring process too
    compare, show = compare_speed, show_speed
    if arguments.time_to_score or arguments.own_settings:
        compare, show = compare_score, show_own if arguments.own_settings else show_score
    elif arguments.memory:
        compare, show = compare_memory, show_memory
    comparisons = [compare(arguments, name) for name in arguments.case]
    print(show(comparisons, arguments))
    if arguments.out:
        about = {"machine": describe_machine(), "peer": peer_versions(arguments.checkout)}
        write_json(arguments.out, {**about, "comparisons": comparisons}, indent=2)


if __name__ == "__main__":
    main()
