"""What the suite trains, in order of value, and which of it is reported together."""

from dataclasses import dataclass

NINE = ("3m", "8m", "2s3z", "3s5z", "3s_vs_5z", "5m_vs_6m", "10m_vs_11m", "3s5z_vs_3s6z", "6h_vs_8z")
"""The maps of the aggregate: those with fixed armies of at most eleven units."""
RANDOM = ("smacv2_5_units", "smacv2_10_units")
LARGE = {"25m": 5, "27m_vs_30m": 3, "smacv2_20_units": 3}
"""Map -> seeds."""
METHODS = ("pqn_qmix", "vdn", "pqn_vdn", "qplex", "iql")
"""Beside QMIX, as `qmix-jax report` names them; pqn_ is learning without replay."""
LONG, SHORT, ABLATED = 10_000_000, 5_000_000, 2_500_000
"""Environment steps."""
ABLATIONS = "ablations"
"""The folder of their jobs."""
SETS = "deep_sets"
"""The folder of the runs whose agents take entities as sets."""
SETS_MAPS = (*RANDOM, "3m", "10m_vs_11m")
ABLATION_MAPS = ("3s5z", "smacv2_5_units", "5m_vs_6m")
CHANGES = {
    "none": (),
    "vdn": ("algorithm=vdn",),
    "iql": ("algorithm=iql",),
    "state_as_it_is": ("algorithm.state_norm=none",),
    "one_step_targets": ("learner.td_lambda=0",),
    "no_double_q": ("learner.double_q=false",),
    "own_parameters": ("agent.share_parameters=false",),
    "no_agent_id": ("agent.use_agent_id=false",),
    "no_last_action": ("agent.use_last_action=false",),
    "width_32": ("agent.hidden_size=32",),
    "width_128": ("agent.hidden_size=128",),
    "replay_32k": ("replay.capacity=32_768",),
    "half_the_updates": ("learner.env_steps_per_update=1_024",),
    "twice_the_updates": ("learner.env_steps_per_update=256",),
    "reward_scale_1": ("learner.reward_scale=1",),
    "deep_sets": ("agent=deep_sets",),
}
"""What an ablation changes of QMIX with the defaults: its name and its settings."""


@dataclass(frozen=True)
class Job:
    """One run: its folder's name and its settings."""

    name: str
    env_steps: int
    overrides: tuple[str, ...]


def smax(env_map: str, algorithm: str, num_seeds: int, env_steps: int) -> Job:
    """An algorithm on a map with the defaults; a method without replay with its preset's."""
    method = [f"algorithm={algorithm}"]
    if algorithm.startswith("pqn_"):  # the preset decays epsilon over 10 % of a run of another length
        method = ["+preset=pqn", f"algorithm={algorithm[4:]}", f"exploration.decay_env_steps={env_steps // 10}"]
    shared = [f"env.map={env_map}", f"num_seeds={num_seeds}", f"total_env_steps={env_steps}"]
    ways = ["evaluation.every_env_steps=100000", "logging.film=false"]
    return Job(f"{env_map}-{algorithm}", env_steps, (*method, *shared, *ways))


def ablation(env_map: str, change: str) -> Job:
    """One change on a map, with five seeds."""
    job = smax(env_map, "qmix", 5, ABLATED)
    return Job(f"{ABLATIONS}/{env_map}-{change}", ABLATED, (*job.overrides, *CHANGES[change]))


def sets(env_map: str) -> Job:
    """QMIX with agents that take entities as sets, with five seeds."""
    job = smax(env_map, "qmix", 5, LONG)
    return Job(f"{SETS}/{env_map}", LONG, (*job.overrides, "agent=deep_sets"))


PLAN = (
    *(smax(each, "qmix", 5, LONG) for each in (*NINE, *RANDOM)),
    *(smax(each, algorithm, 3, SHORT) for algorithm in METHODS for each in NINE),
    *(smax(each, "qmix", num_seeds, SHORT) for each, num_seeds in LARGE.items()),
    *(ablation(each, change) for each in ABLATION_MAPS for change in CHANGES),
    *map(sets, SETS_MAPS),
)
