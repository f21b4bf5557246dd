"""Whether a run fits into this machine's memory, before anything of it is made, and which setting is to blame if not.

What stays is counted exactly from the state's shapes; what is made and dropped is estimated from the sizes of networks,
batch, rollout and evaluation, in proportions measured with XLA's own `memory_analysis` of programs compiled for CPU.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import psutil

from qmix_jax.config import (
    AgentConfig,
    ConfigError,
    EvaluationConfig,
    LearnerConfig,
    ReplayConfig,
    RolloutConfig,
    by_name,
)
from qmix_jax.mixers import MIXERS
from qmix_jax.run.program import SEED, Program, describe_memory
from qmix_jax.types import tree_bytes

USUAL = {
    "num_seeds": 1,
    "replay.capacity": ReplayConfig.capacity,
    "rollout.num_envs": RolloutConfig.num_envs,
    "rollout.num_steps": RolloutConfig.num_steps,
    "env.starts_per_rollout": 3,
    "agent.hidden_size": AgentConfig.hidden_size,
    "learner.batch_size": LearnerConfig.batch_size,
    "evaluation.episodes": EvaluationConfig.episodes,
}
"""The settings that memory grows with, and what they are by default: the one furthest above it is to blame."""
ACTIVATIONS = 1.8
"""Numbers kept for each output of a matrix product in an update: 1.2 to 2.0 measured (3m, 25m, two-step game, MPE; GRU
agents; QMIX, QPLEX, QTRAN, VDN)."""
OF_TRANSFORMER = 0.2
"""The same for agents that are transformers, as a share of that: they recompute most of it."""
COPIES_OF_PARAMETERS = 3
"""Besides the learner's state: the gradient, the step, and on a CPU the last good ones."""
EPISODE_COPIES = 3
"""Of an environment's state in an evaluation: 3 measured."""
BYTES = 4


class Part(NamedTuple):
    """Something that takes memory."""

    name: str
    size: float
    """Bytes, over all devices."""
    settings: dict[str, int]
    """Name -> the power of it that the size grows with."""
    stays: bool = True
    """False for what is made and dropped: of such parts, only the largest is there at a time."""


def memory_at_hand() -> int:
    """Bytes that one device may still take: free on the GPU, or on the machine (or its container)."""
    stats = jax.devices()[0].memory_stats() or {} if jax.default_backend() != "cpu" else {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    available = psutil.virtual_memory().available
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # no container, or no limit
        return available
    return min(available, limit - used)


def estimate(program: Program) -> list[Part]:
    """The parts of what a run will take."""
    config, spec, needs = program.config, program.env.spec, describe_memory(program.shapes)
    num_envs, num_seeds = config.rollout.num_envs, config.num_seeds
    live = num_seeds if program.vmaps_seeds else program.mesh.shape[SEED]
    for_seeds = {"num_seeds": 1} if live == num_seeds else {}
    networks = needs["learner"] + COPIES_OF_PARAMETERS * needs["parameters"]
    agents = _of_agents(program.shapes.seeds.learner.params)
    share = sum(leaf.size for _, leaf in agents) * BYTES / max(needs["parameters"], 1)
    rows = live * config.learner.batch_size * (config.rollout.num_steps + 1)
    widths, agent_widths = _widths(_leaves(program.shapes.seeds.learner.params)), _widths(agents)
    kept = OF_TRANSFORMER if config.agent.kind == "transformer" else 1
    numbers = spec.num_agents * (kept * agent_widths + spec.obs_size) + widths - agent_widths
    options = dict.fromkeys(_sizes_of_mixer(program), 1)
    batch = {"learner.batch_size": 1, "rollout.num_steps": 1, **for_seeds}
    of_env = needs["rollout"] / num_seeds / num_envs
    rollout = live * num_envs * (tree_bytes(program.trainer.row()) + program.trainer.fresh_episodes * of_env)
    is_copied = _is_copied(program)
    return [
        Part("replay", needs["replay"] * (1 + is_copied), {"replay.capacity": 1, "num_seeds": 1}),
        Part("the agents' networks", networks * share, {"agent.hidden_size": 2, "num_seeds": 1}),
        Part("the mixer", networks * (1 - share), {**options, "num_seeds": 1}),
        Part("environments", needs["rollout"], {"rollout.num_envs": 1, "num_seeds": 1}),
        Part("an update", ACTIVATIONS * BYTES * rows * numbers, {**batch, "agent.hidden_size": 1, **options}, False),
        Part(
            "a rollout",
            rollout,
            {"rollout.num_envs": 1, "rollout.num_steps": 1, "env.starts_per_rollout": 1, **for_seeds},
            False,
        ),
        Part(
            "an evaluation",
            EPISODE_COPIES * live * config.evaluation.episodes * of_env,
            {"evaluation.episodes": 1, **for_seeds},
            False,
        ),
    ]


def _is_copied(program: Program) -> bool:
    """Whether a checkpoint is written from a copy of the replay in the same memory."""
    return jax.default_backend() == "cpu" and program.config.checkpoint.replay and program.config.has_replay


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    """The arrays (S, ...) of a pytree with their paths."""
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _of_agents(params: Any) -> list[tuple[str, Any]]:
    return [(path, leaf) for path, leaf in _leaves(params) if "'agent'" in path]


def _widths(leaves: list[tuple[str, Any]]) -> int:
    """The summed widths of what the matrices among some parameters (S, ...) give."""
    return sum(leaf.shape[-1] for path, leaf in leaves if leaf.ndim > 2 and "bias" not in path)


def _sizes_of_mixer(program: Program) -> Iterator[str]:
    """The names of the algorithm's sizes."""
    for name, value in program.config.algorithm.options.items():
        if isinstance(value, int) and not isinstance(value, bool):
            yield f"algorithm.{name}"


def _total(parts: list[Part], setting: str = "", share: float = 1.0) -> float:
    """Bytes of all parts together, with a setting at this share of its value."""
    sizes = [(part.size * share ** part.settings.get(setting, 0), part.stays) for part in parts]
    return sum(size for size, stays in sizes if stays) + max(size for size, stays in sizes if not stays)


def refuse_what_cannot_fit(program: Program) -> None:
    """Raise ConfigError where a run is larger than the memory, with the setting to blame and a value that would fit."""
    parts = estimate(program)
    room = 0.9 * memory_at_hand() * (1 if jax.default_backend() == "cpu" else program.mesh.size)
    if _total(parts) <= room:
        return
    part, setting, value = _to_blame(program, parts)
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
        f"{setting}={value} needs {gib(part.size)} for {part.name}{copied if part.name == 'replay' else ''}, and only "
        f"{gib(room)} of memory can be used; {advice}"
    )


def what_to_lower(program: Program) -> str:
    """Advice, for a run that ran out of memory."""
    part, setting, value = _to_blame(program, estimate(program))
    return (
        f"lower {setting}={value} (the largest part, {gib(part.size)}, is {part.name}), or go on from the last "
        "checkpoint on a larger machine"
    )


def _to_blame(program: Program, parts: list[Part]) -> tuple[Part, str, int]:
    """The largest part, and the setting that makes it so large: its name and its value."""
    part = max(parts, key=lambda part: part.size)
    values = by_name(program.config) | {"env.starts_per_rollout": program.trainer.fresh_episodes}
    mixer = MIXERS[program.config.algorithm.name]
    usual = USUAL | {name: getattr(mixer, name.removeprefix("algorithm."), 1) for name in _sizes_of_mixer(program)}
    setting = max(part.settings, key=lambda name: values[name] / usual[name])
    return part, setting, values[setting]


def gib(size: float) -> str:
    """Bytes as GiB."""
    return f"{size / 2**30:.2f} GiB"
