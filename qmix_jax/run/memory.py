"""Whether a run fits into memory, checked before anything is allocated, and which setting makes it too large.

The training state is counted exactly from its shapes. Temporary buffers are those that XLA told when it compiled such a
program before (`qmix_jax.run.compiled_memory`); else they are estimated from the sizes of networks, batch, rollout and
evaluation, with factors measured by XLA's `memory_analysis` of programs compiled for CPU.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import psutil

from qmix_jax.agents.gru import GruConfig
from qmix_jax.agents.transformer import TransformerAgents
from qmix_jax.build import mixer_class
from qmix_jax.config import EvaluationConfig, LearnerConfig, ReplayConfig, RolloutConfig, by_name
from qmix_jax.run import compiled_memory, hosts
from qmix_jax.run.devices import SEED
from qmix_jax.run.program import Program, describe_memory
from qmix_jax.settings import ConfigError
from qmix_jax.types import Params, tree_bytes

USUAL = {
    "num_seeds": 1,
    "replay.capacity": ReplayConfig.capacity,
    "rollout.num_envs": RolloutConfig.num_envs,
    "rollout.num_steps": RolloutConfig.num_steps,
    "env.starts_per_rollout": 3,
    "agent.hidden_size": GruConfig.hidden_size,
    "learner.batch_size": LearnerConfig.batch_size,
    "evaluation.episodes": EvaluationConfig.episodes,
}
"""Settings that memory grows with, and their defaults; the setting furthest above its default is reported."""
ACTIVATIONS = 1.8
"""Numbers stored for each output of a matrix product in an update: 1.2 to 2.0 measured (3m, 25m, two-step game, MPE;
GRU agents; QMIX, QPLEX, QTRAN, VDN)."""
OF_TRANSFORMER = 0.2
"""The share of that for transformer agents, which recompute most activations."""
COPIES_OF_PARAMETERS = 3
"""Besides the learner's state: the gradient and the update, which are temporary, and on a CPU the last finite ones."""
EPISODE_COPIES = 3
"""Copies of an environment's state in an evaluation: 3 measured."""
BYTES = 4

CONTAINER = Path("/sys/fs/cgroup")
"""Where a container's processes see the limits of its memory (cgroup v2)."""


class Part(NamedTuple):
    """A part of the memory of a run."""

    name: str
    size: float
    """Bytes, over all devices."""
    settings: dict[str, int]
    """Setting -> the power of it that the size is proportional to."""
    stays: bool = True
    """False for temporary buffers: only the largest of them exists at a time."""


def memory_at_hand() -> int:
    """Free bytes of one device: of the GPU, or of the machine (or its container, but for the files that it caches)."""
    stats = jax.local_devices()[0].memory_stats() or {} if jax.default_backend() != "cpu" else {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    available = psutil.virtual_memory().available
    try:
        limit = int((CONTAINER / "memory.max").read_text())
        used = int((CONTAINER / "memory.current").read_text())
        of_what = dict(line.split() for line in (CONTAINER / "memory.stat").read_text().splitlines())
        cached = sum(int(of_what.get(name, 0)) for name in ("inactive_file", "active_file"))
    except (OSError, ValueError):  # no container, or no limit
        return available
    return min(available, limit - used + cached)


def estimate(program: Program) -> list[Part]:
    """The parts of the memory of a run; of the temporary ones the largest is as large as XLA told, where it did."""
    parts, known = _estimate(program), compiled_memory.temporaries(program)
    if known is None:
        return parts
    scale = max(known - _scanned_replay(program), 0) / max(part.size for part in parts if not part.stays)
    return [part if part.stays else part._replace(size=part.size * scale) for part in parts]


def _estimate(program: Program) -> list[Part]:
    config, spec, needs = program.config, program.env.spec, describe_memory(program.shapes)
    num_envs, num_seeds = config.rollout.num_envs, config.num_seeds
    live = num_seeds if program.vmaps_seeds else program.mesh.shape[SEED]
    for_seeds = {"num_seeds": 1} if live == num_seeds else {}
    networks = needs["learner"] + COPIES_OF_PARAMETERS * needs["parameters"]
    params = program.shapes.seeds.learner.params
    share = tree_bytes(params["agent"]) / max(needs["parameters"], 1)
    rows = live * config.learner.batch_size * (config.rollout.num_steps + 1)
    widths, agent_widths = _widths(params), _widths(params["agent"])
    stored = OF_TRANSFORMER if isinstance(program.trainer.agents, TransformerAgents) else 1
    numbers = spec.num_agents * (stored * agent_widths + spec.obs_size) + widths - agent_widths
    options = dict.fromkeys(_sizes_of_mixer(program), 1)
    width = [name for name in by_name(config) if name == "agent.hidden_size"]
    batch = {"learner.batch_size": 1, "rollout.num_steps": 1, **for_seeds}
    of_env = needs["rollout"] / num_seeds / num_envs
    rollout = live * num_envs * (tree_bytes(program.trainer.row()) + program.trainer.fresh_episodes * of_env)
    for_rollout = {"rollout.num_envs": 1, "rollout.num_steps": 1, "env.starts_per_rollout": 1, **for_seeds}
    evaluation = EPISODE_COPIES * live * config.evaluation.episodes * of_env
    replay = needs["replay"] * (1 + _is_copied(program)) + _scanned_replay(program)
    return [
        Part("replay", replay, {"replay.capacity": 1, "num_seeds": 1}),
        Part("the agents' networks", networks * share, {**dict.fromkeys(width, 2), "num_seeds": 1}),
        Part("the mixer", networks * (1 - share), {**options, "num_seeds": 1}),
        Part("environments", needs["rollout"], {"rollout.num_envs": 1, "num_seeds": 1}),
        Part("an update", ACTIVATIONS * BYTES * rows * numbers, {**batch, **dict.fromkeys(width, 1), **options}, False),
        Part("a rollout", rollout, for_rollout, False),
        Part("an evaluation", evaluation, {"evaluation.episodes": 1, **for_seeds}, False),
    ]


def _is_copied(program: Program) -> bool:
    """Whether a checkpoint copies the replay within the same memory."""
    return jax.default_backend() == "cpu" and program.config.checkpoint.replay and program.config.has_replay


def _scanned_replay(program: Program) -> float:
    """Bytes of the replay that devices copy which scan over seeds: each that of one."""
    seeds, devices = program.config.num_seeds, program.mesh.shape[SEED]
    is_scanned = seeds > devices and not program.vmaps_seeds
    return is_scanned * describe_memory(program.shapes)["replay"] * devices / seeds


def _widths(params: Params) -> int:
    """The summed output widths of the matrices among parameters (S, ...)."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return sum(leaf.shape[-1] for path, leaf in leaves if leaf.ndim > 2 and "bias" not in jax.tree_util.keystr(path))


def _sizes_of_mixer(program: Program) -> Iterator[str]:
    """The settings of the algorithm that are sizes."""
    for name, value in program.config.algorithm.options.items():
        if isinstance(value, int) and value > 0 and not isinstance(value, bool):
            yield f"algorithm.{name}"


def _total(parts: list[Part], setting: str = "", share: float = 1.0) -> float:
    """Bytes of all parts, with a setting reduced to this share of its value."""
    sizes = [(part.size * share ** part.settings.get(setting, 0), part.stays) for part in parts]
    return sum(size for size, stays in sizes if stays) + max(size for size, stays in sizes if not stays)


def room_for(program: Program) -> float:
    """Bytes of memory that a run can use."""
    is_cpu = jax.default_backend() == "cpu"
    return 0.9 * memory_at_hand() * (hosts.count() if is_cpu else program.mesh.size)


def needed(program: Program) -> float:
    """Bytes of memory that a run needs."""
    return _total(estimate(program))


def fits(program: Program) -> bool:
    """Whether a run, or several together, can fit into memory, and may train all of its seeds at once."""
    most, count = program.config.num_seeds_at_once, program.config.num_seeds
    return (most == "auto" or count <= most) and needed(program) <= room_for(program)


def even_sizes(count: int, fits: Callable[[int], bool]) -> list[int]:
    """The sizes of the fewest batches of `count` things of which the largest fits; they differ by at most one. They are
    single things where nothing larger fits.
    """
    fewest = 1 if fits(count) else 2 + bisect_left(range(2, count), True, key=lambda few: fits(-(-count // few)))
    batches = min(fewest, count)
    return [count // batches + (i < count % batches) for i in range(batches)]


class TooLargeError(Exception):
    """A compiled program needs more memory than there is; it is known from now on (`compiled_memory`)."""


def check_compiled(program: Program, compiled: Any, room: float) -> None:
    """Keep what XLA tells of the compiled chunk; raises TooLargeError where the run then needs more than `room`."""
    compiled_memory.record(program, compiled)
    if hosts.count() == 1 and compiled_memory.temporaries(program) is not None and needed(program) > room:
        raise TooLargeError


def refuse_what_cannot_fit(program: Program) -> None:
    """Raise ConfigError where a run does not fit, naming the setting that makes it too large and a value that fits."""
    parts, room = estimate(program), room_for(program)
    if _total(parts) <= room:
        return
    part, setting, value = _largest(program, parts)
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _total(parts, setting, middle) <= room else (low, middle)
    fitting = int(0.95 * value * low)
    if setting == "replay.capacity" and fitting < program.config.iteration_env_steps:
        fitting = 0
    advice = f"try {setting}={fitting}" if fitting else "take fewer seeds, fewer environments or smaller networks"
    copied = " and its copy in a checkpoint (checkpoint.replay=false makes none)" if _is_copied(program) else ""
    raise ConfigError(
        f"{setting}={value} needs {gib(part.size)} for {part.name}{copied if part.name == 'replay' else ''}, but only "
        f"{gib(room)} of memory can be used; {advice}"
    )


def what_to_lower(program: Program) -> str:
    """Advice, for a run that ran out of memory."""
    part, setting, value = _largest(program, estimate(program))
    return (
        f"lower {setting}={value} (the largest part, {gib(part.size)}, is {part.name}), or resume from the last "
        "checkpoint on a larger machine"
    )


def _largest(program: Program, parts: list[Part]) -> tuple[Part, str, int]:
    """The largest part, and the name and value of the setting that makes it large."""
    part = max(parts, key=lambda part: part.size)
    values = by_name(program.config) | {"env.starts_per_rollout": program.trainer.fresh_episodes}
    mixer = mixer_class(program.config.algorithm)
    usual = USUAL | {name: getattr(mixer, name.removeprefix("algorithm."), 1) for name in _sizes_of_mixer(program)}
    setting = max(part.settings, key=lambda name: values[name] / max(usual[name], 1))
    return part, setting, values[setting]


def gib(size: float) -> str:
    """Bytes as GiB."""
    return f"{size / 2**30:.2f} GiB"
