"""The particle worlds' settings and their entry in the registry."""

from dataclasses import dataclass
from typing import Literal, get_args

from qmix_jax.envs.definition import Definition
from qmix_jax.import_path import imported

Task = Literal["simple_spread", "simple_reference", "simple_speaker_listener"]


@dataclass(frozen=True)
class MpeConfig:
    """Cooperative particle worlds of JaxMARL."""

    task: Task = "simple_spread"
    """The world."""


TRAINING = {
    "total_env_steps": 2_000_000,
    "rollout": {"num_envs": 32, "num_steps": 26},  # an episode
    "exploration": {"decay_env_steps": 200_000},
    "replay": {"capacity": 133_120},  # 160 rollouts of 32 x 26
    "learner": {
        "batch_size": 32,
        "env_steps_per_update": 208,
        "start_env_steps": 10_000,
        "gamma": 0.9,
        "td_lambda": 0,
        "optimizer": "radam",
        "learning_rate": 5e-3,
        "final_learning_rate_share": 0,
        "max_grad_norm": 25,
    },
    "target": {"every_env_steps": 41_600},
}

MPE = Definition(
    settings=MpeConfig,
    make=imported("qmix_jax.envs.mpe.env:Mpe"),
    help="Cooperative particle worlds of JaxMARL",
    training=TRAINING,
    variant="task",
    variants=get_args(Task),
    other_names=("gymma",),
)
