"""The settings of JaxMARL's environments and their entry in the registry."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from qmix_jax.envs.definition import Definition
from qmix_jax.import_path import imported
from qmix_jax.settings import Count, NotNegative, require, require_one_of

Id = Literal[
    "overcooked_v2",
    "overcooked",
    "hanabi",
    "switch_riddle",
    "HeuristicEnemySMAX",
    "MPE_simple_v3",
    "MPE_simple_spread_v3",
    "MPE_simple_reference_v3",
    "MPE_simple_speaker_listener_v4",
]
TeamReward = Literal["mean", "sum", "shared"]

CONTINUOUS = "its actions are continuous, and Q-learning needs a list of them"
NO_COMMON_GOAL = "its agents play against each other, and value decomposition needs a common goal"
ELSEWHERE = "it is a package of its own; wrap its object in Python (docs/jaxmarl.md)"

UNFIT = {
    **dict.fromkeys(("ant_4x2", "halfcheetah_6x1", "hopper_3x1", "humanoid_9|8", "walker2d_2x3"), CONTINUOUS),
    **dict.fromkeys((f"MPE_simple_facmac{team}_v1" for team in ("", "_3a", "_6a", "_9a")), CONTINUOUS),
    **dict.fromkeys(("camar", "search_and_rescue"), CONTINUOUS),
    **dict.fromkeys(("coin_game", "storm", "storm_2p", "storm_np", "SMAX"), NO_COMMON_GOAL),
    **dict.fromkeys((f"MPE_simple_{task}_v3" for task in ("tag", "world_comm", "crypto", "push")), NO_COMMON_GOAL),
    "MPE_simple_adversary_v3": NO_COMMON_GOAL,
    "jaxnav": "env=jaxnav plays it, with discrete actions",
    "LearnedPolicyEnemySMAX": "it needs the parameters of an enemy; env=smax plays against the heuristic one",
}
"""Why an environment of JaxMARL cannot be trained here."""


@dataclass(frozen=True)
class JaxMarlConfig:
    """A cooperative environment of JaxMARL."""

    id: str = "overcooked_v2"
    """The name under which JaxMARL registers it; `qmix-jax train --help` lists those that fit."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """The arguments of its constructor: env.kwargs={layout: cramped_room, max_steps: 200}."""
    reward: TeamReward = "mean"
    """The team's reward: the mean or sum of the agents' rewards, or shared: the first agent's."""
    shaped_reward: NotNegative = 0.0
    """How much of `info["shaped_reward"]` (Overcooked) is added to each reward, also in evaluations, where the metric
    `unshaped_return` is the return without it."""
    metrics: tuple[str, ...] = ()
    """Entries of `info` to sum over each episode, as means over the agents."""
    max_steps: Count | None = None
    """Steps after which an episode is truncated at the latest; null: its own limit (hanabi, which has none: 100)."""

    def __post_init__(self):
        name = "JaxRobotarium" if self.id.startswith("JaxRobotarium") else self.id
        why = {**UNFIT, "JaxRobotarium": ELSEWHERE}.get(name)
        require(why is None, f"env.id={self.id} cannot be trained: {why}")
        require_one_of("env.id", self.id, get_args(Id))


JAXMARL = Definition(
    settings=JaxMarlConfig,
    make=imported("qmix_jax.envs.jaxmarl.registered:make_registered"),
    help="Any cooperative environment of JaxMARL with discrete actions",
    training={"replay": {"capacity": 102_400}},  # observations are large
    variant="id",
    variants=get_args(Id),
)
