"""What a run says on the terminal: what it will train, how it resumes and ends, what to do next and after a NaN."""

import json
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax

from qmix_jax.agents import DEFAULT_NETWORK
from qmix_jax.build import GROUPS, MADE_IN_PYTHON, NOT_OPTIONS, environments, from_mapping, makers, mixer_class
from qmix_jax.config import Config, by_name, to_mapping
from qmix_jax.console import duration, short
from qmix_jax.envs import DEFAULT_ENVIRONMENT
from qmix_jax.envs.base import TeamEnv
from qmix_jax.records import FROZEN, SEEDS, is_share, known, mean, metric_names
from qmix_jax.run import compiled_memory, exits, hosts
from qmix_jax.run.checkpoint import scored
from qmix_jax.run.devices import DATA, SEED, describe_idle
from qmix_jax.run.memory import gib, needed, room_for
from qmix_jax.run.metrics import score_metric
from qmix_jax.run.nan_source import NanSource
from qmix_jax.run.program import Program, describe_memory
from qmix_jax.run.resume import ResumePoint
from qmix_jax.run.usage import Usage
from qmix_jax.settings import defaults, field_names, flatten

ENDINGS = {
    exits.DONE: "Done",
    exits.FAILED: "Stopped by NaN",
    exits.OUT_OF_MEMORY: "Out of memory",
    exits.NOT_SAVED: "Not saved",
}
FILES = {
    "metrics.jsonl": "every evaluation",
    "curve.png": "the learning curve",
    "policy.gif": "the film",
    "checkpoints": "the whole training state",
}
OF_BATCHES = {"checkpoints": "the trained parameters", SEEDS: "a run for each batch of seeds"}
"""Files of a run whose seeds did not train at once."""

# --- before training ---------------------------------------------------------------------------------------------


def title(config: Config, env: TeamEnv) -> str:
    """Algorithm and environment."""
    return f"{config.algorithm.title.upper()} on {env.spec.name}"


def title_with_seeds(config: Config, env: TeamEnv) -> str:
    """Algorithm, environment and the numbers of the seeds."""
    last = f"..{config.seed + config.num_seeds - 1}" * (config.num_seeds > 1)
    return f"{title(config, env)} · seed {config.seed}{last}"


def describe(program: Program) -> str:
    """Sizes of the run and its devices, and which devices stay idle."""
    config, mesh = program.config, program.mesh
    needs = describe_memory(program.shapes)
    count = needs["parameters"] // 4 // config.num_seeds
    kind = mesh.devices.flat[0].device_kind
    idle = describe_idle(config, jax.device_count())
    source = "estimated" if compiled_memory.temporaries(program) is None else "as compiled before"
    return (
        f"memory {gib(needed(program))} ({source}), replay {gib(needs['replay'])} of it · "
        f"{count:,} parameters a seed ({needs['parameters'] / 2**20:.1f} MiB in all) "
        f"· {config.num_seeds} seed{'s' * (config.num_seeds > 1)} · {mesh.size} x {kind} "
        f"({mesh.shape[SEED]} for seeds x {mesh.shape[DATA]} for data)"
        + f" of {hosts.count()} processes" * (hosts.count() > 1)
        + f"\n{idle}" * bool(idle)
    )


def seed_batches(program: Program, batches: Sequence[range]) -> str:
    """How many seeds train at once, and why not all."""
    most, sizes = program.config.num_seeds_at_once, [len(each) for each in batches]
    each = [str(size) for size in (sizes if len(sizes) < 5 and len({*sizes}) > 1 else sorted({*sizes}))]
    shown = " and ".join(part for part in (", ".join(each[:-1]), each[-1]) if part)
    needs, room = needed(program), room_for(program)
    why = f"all at once need {gib(needs)} of {gib(room)}" if needs > room else f"num_seeds_at_once={most}"
    return f"{sum(sizes)} seeds in {len(sizes)} batches of {shown}: {why}"


def news(config: Config, point: ResumePoint) -> list[str]:
    """Where the run resumes, with which changes, and what it does not save; a line each."""
    start = f"{config.learner.start_env_steps:,} environment steps"
    lines = [f"resumes from step {point.env_steps:,}: {short(point.checkpoint.path)}"] if point.checkpoint else []
    lines += [f"changed: {name} {before} -> {now}" for name, (before, now) in point.changes.items()]
    if point.assumed:
        assumed = ", ".join(f"{name}={value}" for name, value in point.assumed.items())
        made_by = makers(to_mapping(config))
        lines.append(f"another version of {made_by} wrote the checkpoint; it did not have {assumed}")
    if "total_env_steps" in point.changes and config.learner.final_learning_rate is not None:
        lines.append("learner.learning_rate now decays over the new total_env_steps")
    if point.checkpoint and config.has_replay and not point.checkpoint.has_replay:
        lines.append(f"the replay was not saved: learning waits for {start} of new data")
    if config.has_replay and not config.checkpoint.replay:
        lines.append(f"checkpoint.replay=false: a resumed run waits for {start} of new data, so its numbers differ")
    return lines


def only_parameters(folder: Path, point: ResumePoint) -> str:
    """Why a run whose seeds all met NaN cannot be resumed."""
    why = ", which its environment caused: correct the environment and start a new run" * point.is_environments_nan
    return f"{short(folder)} has parameters only: it met NaN at step {point.met_nan:,}{why}"


def complete(folder: Path, env_steps: int) -> str:
    """That there is nothing left to train."""
    return f"{short(folder)} is complete: {env_steps:,} environment steps; a larger total_env_steps makes it longer"


# --- after a NaN -------------------------------------------------------------------------------------------------

LARGE = 1e3
"""Values and returns beyond this make loss and gradient overflow soon."""
SMALL = 1e-3
"""Gradients below this are divided by little more than learner.adam_epsilon."""
PAID = ("payoff", "punishment", "k")
"""Settings of environments that are rewards themselves."""


def after_nan(config: Config, rows: Sequence[dict], sources: Mapping[int, NanSource], finite: int) -> str:
    """Where the loss of seeds (indices) became NaN in the last row, from which sources, and the settings to look at.

    `finite` is how many seeds still train.
    """
    before, row = rows[-2] if len(rows) > 1 else {}, rows[-1]
    saved = "The parameters from before are saved. " if before else ""
    others = f"{finite} other seed{' continues' if finite == 1 else 's continue'}. " if finite else ""
    first = min(sources, key=lambda i: sources[i].env_step is None)  # one whose environment is the source, if any is
    clues = [
        f"{name} {value[first]:.3g}"
        for name in ("loss", "grad_norm", "q_mean", "target_mean")
        if (value := before.get(f"train/{name}")) and value[first] is not None
    ]
    seen = f"Before that {', '.join(clues)}. " if clues else ""
    whose = f"seed {config.seed + first}: " * (len({source.text for source in sources.values()}) > 1)
    is_environments = sources[first].env_step is not None
    return (
        f"the loss of seed {', '.join(str(config.seed + i) for i in sources)} became NaN between steps "
        f"{before.get('env_steps', 0):,} and {row['env_steps']:,}: {whose}{sources[first].text}. {seen}{saved}{others}"
        f"Look at {what_to_look_at(config, before, row, first, is_environments)}."
    )


def what_to_look_at(config: Config, before: dict, row: dict, seed: int, is_environments: bool) -> str:
    """What may have caused the NaN of a run's seed number `seed`, the likeliest first.

    Args:
        config: The run's settings.
        before: The row before, with a finite loss; empty where there is none.
        row: The row with NaN.
        seed: The seed's number in the run.
        is_environments: Whether its environment gave NaN or infinity.
    """

    def of_seed(row: dict, *names: str) -> list[float]:
        values = [row[f"train/{name}"][seed] for name in names if row.get(f"train/{name}")]
        return [value for value in values if value is not None]

    paid = [f"env.{each.name}" for each in fields(config.env.settings) if each.name in PAID]
    outputs = f"the rewards and observations of env={config.env.name}"
    if is_environments:
        return f"{' and '.join([*paid, outputs])}; no setting of the learner cures them"
    returns = of_seed(row, "return")
    sizes = [*of_seed(before, "q_mean", "target_mean"), *[config.learner.reward_scale * x for x in returns]]
    is_large = any(abs(size) > LARGE for size in sizes)
    is_small = any(norm < SMALL for norm in of_seed(before, "grad_norm"))
    advice = {
        " or ".join(["a lower learner.reward_scale", *paid]) + ": values are large": is_large,
        "a lower learner.learning_rate or learner.max_grad_norm": True,
        "a larger learner.adam_epsilon": is_small or not before,
        "algorithm.state_norm=layer_norm": config.algorithm.options.get("state_norm") == "none",
        ", ".join(["learner.reward_scale", *paid, f"the size of {outputs}"]): not (before or is_large),
    }
    return "; ".join(text for text, applies in advice.items() if applies)


# --- after training ----------------------------------------------------------------------------------------------


def summary(
    program: Program, folder: Path | None, rows: Sequence[dict], status: int, received: list[signal.Signals]
) -> str:
    """The last scores, and of a run with a folder its files and how to resume it where a signal stopped it."""
    if not rows:
        return "Stopped before the first evaluation." + (f" Folder: {folder}" if folder else "")
    config, last = program.config, rows[-1]
    is_whole = folder is not None and not (folder / SEEDS).exists()
    seeds = f" x {config.num_seeds} seeds" if config.num_seeds > 1 else ""
    lines = [
        f"{_ending(status, last, received)}: {title(config, program.env)}, "
        f"{last['env_steps']:,} environment steps{seeds} in {duration(last['wall_seconds'])} "
        f"(compiling {duration(last['compile_seconds'])})",
        f"  greedy over {config.evaluation.episodes} episodes: {_last_scores(last)}",
        f"  used {Usage(*(last.get(name, 0.0) for name in Usage._fields)).describe()}",
        *(_best_before(folder, last, score_metric(config, program.env)) if folder and is_whole else []),
    ]
    if folder is None:
        return "\n".join(lines)
    files = FILES if is_whole else FILES | OF_BATCHES
    lines.append(f"  folder: {short(folder)}")
    lines += [f"    {name:<18} {meaning}" for name, meaning in files.items() if (folder / name).exists()]
    if status in exits.STOPPED:
        lines.append(resume_line(folder))
    return "\n".join(lines)


def resume_line(folder: Path) -> str:
    """How to go on with a run that a signal stopped."""
    return f"Resume: {_command()} train --resume {shlex.quote(str(short(folder)))}"


def _ending(status: int, last: dict, received: list[signal.Signals]) -> str:
    if status == exits.FAILED and None in last.get(FROZEN, []):
        return "Done, except seeds that met NaN"
    return ENDINGS.get(status) or f"Stopped by {received[0].name}".replace("SIGINT", "you")


def _last_scores(row: dict) -> str:
    names = [name for name in metric_names(row) if name != "episode_length"]
    return ", ".join(_describe_score(name, row[f"eval/{name}"]) for name in names)


def _best_before(folder: Path, last: dict, metric: str) -> list[str]:
    """The best evaluation that is saved, where it is not the last one."""
    top, score = next(iter(scored(folder, metric)), None), mean(last.get(metric))
    if top is None or (score is not None and top.score <= score):
        return []
    shown = _describe_score(metric.partition("/")[2], [top.score])
    return [f"  best: {shown} at step {top.env_steps:,} (--checkpoint best)"]


def _describe_score(name: str, value: list[float | None]) -> str:
    show, values = "{:.1%}" if is_share(name) else "{:.2f}", known(value)
    words = name.replace("_", " ")
    if not values:
        return f"{words} unknown"
    text = f"{words} {show.format(mean(values))}"
    return text + (f" (seeds: {', '.join(map(show.format, values))})" if len(values) > 1 else "")


# --- the next commands -------------------------------------------------------------------------------------------

COLUMN = 100
"""Explanations are aligned after the longest command, but at most after this width."""
NOT_COMPARED = ("algorithm", "seed", "num_seeds_at_once", "devices", "checkpoint", "callbacks", "logging")
"""Settings, and groups of them, in which a comparable run may differ."""


def next_steps(config: Config, folder: Path) -> str:
    """Commands to try next; '' where a part of the run was made in Python, which no command line names."""
    if any(part.name.endswith(MADE_IN_PYTHON) for part in (config.env, config.algorithm, config.agent)):
        return ""
    train, run = f"{_command()} train", shlex.quote(str(short(folder)))
    same, other = same_settings(config), "vdn" if config.algorithm.name != "vdn" else "qmix"
    own = [f"algorithm={config.algorithm.name}"] * (config.algorithm.name != "qmix")
    more_seeds = [each for each in same if not each.startswith("num_seeds=")]
    more_seeds += [*own, f"num_seeds={4 * config.num_seeds}"]
    lines = {
        f"{_command()} evaluate {run}": "score it, with --noise, --replace, --remove too",
        f"{_command()} render {run}": "film it, with each agent's credit",
        f"{train} {command_line([*same, f'algorithm={other}'])}": "the same with another mixer",
    }
    if example := _other_map(config):
        lines[f"{train} {example}"] = "another map"
    lines[f"{train} {command_line(more_seeds)}"] = "more seeds at once"
    lines[f"{train} --help"] = "everything else"
    width = min(COLUMN, max(map(len, lines)))
    return "\n".join(["Next:", *(f"  {line:<{width}}  {meaning}" for line, meaning in lines.items())])


def _other_map(config: Config) -> str:
    """The overrides of a run on another variant of the environment; '' where this is that one, or none is known."""
    if config.env.name not in list(environments()):
        return ""
    example, own = environments()[config.env.name].example, by_name(config)
    chosen = (word.split("=") for word in example.split() if word.startswith("env."))
    return example if any(_as_override(own[name]) != value for name, value in chosen) else ""


def same_settings(config: Config) -> list[str]:
    """The overrides of a comparable run: its environment, and what differs from the defaults but `NOT_COMPARED`."""
    groups = {"env": config.env.name, "algorithm": config.algorithm.name, "agent": config.agent.name}
    needed = _without_default(config)
    plain = by_name(from_mapping({group: {"name": name, **needed[group]} for group, name in groups.items()}))
    plain = {name: value for name, value in plain.items() if name not in flatten(needed)}
    chosen = {name: value for name, value in by_name(config).items() if name.split(".")[0] not in NOT_COMPARED}
    if config.learner.final_learning_rate != "share":
        del chosen["learner.final_learning_rate_share"]  # without effect
    changed = [f"{name}={_as_override(value)}" for name, value in chosen.items() if value != plain.get(name)]
    usual = {"env": DEFAULT_ENVIRONMENT, "agent": DEFAULT_NETWORK}
    return [*(f"{group}={groups[group]}" for group in usual if groups[group] != usual[group]), *changed]


def _without_default(config: Config) -> dict[str, dict[str, Any]]:
    """The settings of environment, mixer and network that have no default."""
    found, values = {}, to_mapping(config)
    classes = type(config.env.settings), mixer_class(config.algorithm), type(config.agent.settings)
    for group, cls in zip(GROUPS, classes, strict=True):
        left_out = NOT_OPTIONS if group == "algorithm" else ()
        names = set(field_names(cls, left_out)) - set(defaults(cls, left_out))
        found[group] = {name: values[group][name] for name in sorted(names)}
    return found


def _as_override(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def command_line(overrides: list[str]) -> str:
    """Overrides, quoted for a shell."""
    return " ".join(map(shlex.quote, overrides))


def _command() -> str:
    """How to call this program from this shell and folder."""
    beside = Path(sys.executable).with_name("qmix-jax")
    if shutil.which("qmix-jax"):
        return "qmix-jax"
    return str(short(beside)) if beside.exists() else f"{short(Path(sys.executable))} -m qmix_jax"
