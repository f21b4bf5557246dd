"""The settings of a run: frozen dataclasses, checked when they are made, with the counts that follow from them.

Every count of time in a setting is in **environment steps**: one step of one environment, summed over all
environments of a seed, whatever the number of environments or devices. `num_envs`, `batch_size` and
`replay.capacity` are totals over all devices.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from qmix_jax.settings import (
    LARGEST_INT,
    Count,
    Few,
    NotNegative,
    Positive,
    PositiveShare,
    Range,
    Share,
    Size,
    Steps,
    check_ranges,
    flatten,
    require,
    shown,
)


@dataclass(frozen=True)
class EnvConfig:
    """Which environment, and its own settings."""

    name: str
    settings: Any
    """The environment's own dataclass."""
    starts_per_rollout: Count | None = None
    """Fresh episodes prepared for each environment before a rollout; one that needs more takes its first again. null:
    as many as can be needed (`rollout.starts_needed`)."""
    shield: str | None = None
    """A function, as `package.module:function`, that narrows the legal actions (see docs/shield.md)."""

    def __post_init__(self):
        check_ranges("env.", self)
        check_ranges("env.", self.settings)


@dataclass(frozen=True)
class AlgorithmConfig:
    """Which mixer, and its own options (the fields of its class in `qmix_jax.mixers`)."""

    name: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class AgentConfig:
    """The recurrent Q-network of each agent."""

    hidden_size: Size = 64
    layer_norm: bool = False
    """Normalise the first layer, and the recurrent state before the last layer."""
    use_agent_id: bool = True
    use_last_action: bool = True
    share_parameters: bool = True
    kind: Literal["gru", "transformer"] = "gru"
    """transformer: attention over the entities that an agent sees, see `qmix_jax.agents.transformer`."""
    num_heads: Few = 4
    """Of a transformer's attention."""
    num_layers: Few = 2
    """Of a transformer."""

    def __post_init__(self):
        check_ranges("agent.", self)
        is_plain = self.share_parameters and not (self.layer_norm or self.use_agent_id or self.use_last_action)
        require(
            self.kind == "gru" or is_plain,
            "agent.kind=transformer knows entities only; set agent.use_agent_id=false agent.use_last_action=false "
            "agent.layer_norm=false agent.share_parameters=true",
        )


@dataclass(frozen=True)
class RolloutConfig:
    """How experience is gathered: each iteration takes num_steps in each of num_envs environments."""

    num_envs: Count = 32
    num_steps: Count = 32
    whole_episodes: bool = False
    """Start every rollout afresh and ignore what follows its first episode (PyMARL's semantics)."""

    def __post_init__(self):
        check_ranges("rollout.", self)


@dataclass(frozen=True)
class ExplorationConfig:
    """Epsilon-greedy: linear from `start` to `finish` over `decay_env_steps`."""

    start: Share = 1.0
    finish: Share = 0.05
    decay_env_steps: Steps = 100_000

    def __post_init__(self):
        check_ranges("exploration.", self)


@dataclass(frozen=True)
class ReplayConfig:
    """Replay of whole sequences, sampled uniformly."""

    capacity: Annotated[int, Range(0, 10**15, "must not be negative, nor greater than 10^15")] = 262_144
    """Environment steps kept; rounded down to whole rollouts. 0: no replay (see `Config.has_replay`)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """In which observations (or what they are made from) are kept: bfloat16 takes half, and rounds to 3 digits."""

    def __post_init__(self):
        check_ranges("replay.", self)


@dataclass(frozen=True)
class LearnerConfig:
    """The temporal-difference update."""

    batch_size: Count = 32
    """Sequences an update."""
    env_steps_per_update: Positive = 512
    """One update for every so many environment steps, at any number of environments."""
    start_env_steps: Steps = 20_000
    """Learning starts with the iteration that reaches this step."""
    burn_in: Steps = 0
    """Steps at a sequence's start that only warm up the recurrent state."""
    gamma: Share = 0.99
    td_lambda: Share = 0.8
    double_q: bool = True
    optimizer: Literal["adam", "radam", "rmsprop"] = "adam"
    learning_rate: Positive = 1e-3
    final_learning_rate: NotNegative | Literal["share"] | None = "share"
    """Where the linear decay over the run (`Config.trained_env_steps`) ends: a rate; share: `final_learning_rate_share`
    times `learning_rate`; null: no decay."""
    final_learning_rate_share: NotNegative = 0.1
    adam_epsilon: Positive = 1e-8
    """Added to the denominator of Adam, RAdam and RMSprop."""
    max_grad_norm: Positive = 10.0
    reward_scale: Positive = 1.0

    def __post_init__(self):
        check_ranges("learner.", self)
        first, last = self.learning_rate, self.final_learning_rate
        require(
            not isinstance(last, float | int) or last <= first,
            f"learner.final_learning_rate={last} is above learner.learning_rate={first}, so the rate would rise; set "
            f"learner.final_learning_rate=share to end at {self.final_learning_rate_share:g} times the start, or if it "
            f"should rise, also learner.final_learning_rate_share=2 to end at twice the start",
        )

    @property
    def last_learning_rate(self) -> float:
        """The learning rate at the end of the run."""
        match self.final_learning_rate:
            case None:
                return self.learning_rate
            case "share":
                return self.final_learning_rate_share * self.learning_rate
            case rate:
                return rate


@dataclass(frozen=True)
class TargetConfig:
    """The target network: agent and mixer together."""

    mode: Literal["hard", "soft", "none"] = "hard"
    """none: targets bootstrap from the online networks, held fixed."""
    every_env_steps: Count = 5_120
    """hard: copy the parameters with the iteration that passes each multiple of this."""
    tau: PositiveShare = 0.005
    """soft: move by this share after every update."""

    def __post_init__(self):
        check_ranges("target.", self)


@dataclass(frozen=True)
class EvaluationConfig:
    """Greedy evaluation, compiled into the training program."""

    every_env_steps: Count = 100_000
    """Environment steps between two evaluations at most: they are spread evenly over the run."""
    episodes: Count = 128

    def __post_init__(self):
        check_ranges("evaluation.", self)


@dataclass(frozen=True)
class CheckpointConfig:
    """When the whole training state is saved, and what is kept of it."""

    every_env_steps: Count | None = 1_000_000
    """Besides the end; null: only then."""
    keep_last: Count = 2
    keep_best: Steps = 1
    """How many are kept for their score, besides the last."""
    metric: Literal["auto", "eval/win_rate", "eval/return", "train/win_rate", "train/return"] = "auto"
    """The score, averaged over seeds; auto: eval/win_rate where there is one, or else eval/return."""
    replay: bool = True
    """Save the replay too; false: a resumed run learns only after it has gathered learner.start_env_steps anew."""

    def __post_init__(self):
        check_ranges("checkpoint.", self)


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases; off by default."""

    mode: Literal["disabled", "offline", "online"] = "disabled"
    project: str = "qmix_jax"
    entity: str | None = None
    group: str | None = None
    """What stands together; None: the jobs of a sweep, and the seeds of a run with `per_seed`."""
    tags: tuple[str, ...] = ()
    per_seed: bool = False
    """A run of its own for each seed, instead of mean, interval and seeds in one."""
    artifacts: bool = False
    """Upload checkpoints."""


@dataclass(frozen=True)
class LoggingConfig:
    """What a run shows and leaves behind."""

    display: Literal["auto", "live", "plain", "none"] = "auto"
    film: bool = True
    tensorboard: bool = False
    """Write event files; needs the extra `tensorboard`."""
    wandb: WandbConfig = field(default_factory=WandbConfig)


MAX_DEVICES = 4096


@dataclass(frozen=True)
class Config:
    """All settings of one run."""

    env: EnvConfig
    algorithm: AlgorithmConfig
    seed: Steps = 0
    num_seeds: Size = 1
    total_env_steps: Count = 2_500_000
    devices: str = "auto"
    matmul_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of what matrix products multiply while training; sums, parameters and all else are float32."""
    agent: AgentConfig = field(default_factory=AgentConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    def __post_init__(self):
        check_ranges("", self)
        largest = 2**31 - self.num_seeds
        require(self.seed <= largest, f"seed={self.seed} must not be greater than {largest} (2^31 - num_seeds)")
        require(
            self.trained_env_steps <= LARGEST_INT,
            f"total_env_steps={self.total_env_steps} is more than the clock counts (2^31 - 1) in whole rollouts of "
            f"{self.iteration_env_steps} steps (rollout.num_envs x rollout.num_steps); lower one of them",
        )
        updates = self.trained_env_steps / self.learner.env_steps_per_update
        require(
            updates <= LARGEST_INT,
            f"learner.env_steps_per_update={self.learner.env_steps_per_update} means {updates:.2g} updates in "
            f"{self.trained_env_steps} steps, but at most 2^31 - 1 are counted; raise it",
        )
        is_count = self.devices in map(str, range(1, MAX_DEVICES + 1))
        require(
            self.devices == "auto" or is_count,
            f"devices={shown(self.devices)} must be auto or a number of devices (1 to {MAX_DEVICES})",
        )
        sequences = self.replay_sequences
        require(
            sequences > 0 or not self.has_replay,
            f"replay.capacity={self.replay.capacity} holds no rollout of {self.iteration_env_steps} steps "
            f"(rollout.num_envs x rollout.num_steps); set replay.capacity={self.iteration_env_steps} or more, or 0 to "
            f"learn from the newest rollout alone",
        )
        batch, envs = self.learner.batch_size, self.rollout.num_envs
        require(
            self.has_replay or envs % batch == 0,
            f"learner.batch_size={batch} does not divide rollout.num_envs={envs}, and with replay.capacity=0 the "
            f"newest rollout's sequences are learnt from in equal minibatches; set learner.batch_size="
            f"{math.gcd(batch, envs)}",
        )
        require(
            self.learner.burn_in < self.rollout.num_steps,
            f"learner.burn_in={self.learner.burn_in} leaves nothing of rollout.num_steps={self.rollout.num_steps}",
        )

    @property
    def iteration_env_steps(self) -> int:
        """Environment steps an iteration adds."""
        return self.rollout.num_envs * self.rollout.num_steps

    @property
    def num_iterations(self) -> int:
        """Iterations that reach `total_env_steps`."""
        return math.ceil(self.total_env_steps / self.iteration_env_steps)

    @property
    def num_chunks(self) -> int:
        """Chunks of a run: as few as evaluate every `evaluation.every_env_steps` (in whole iterations)."""
        return math.ceil(self.num_iterations / math.ceil(self.evaluation.every_env_steps / self.iteration_env_steps))

    @property
    def iterations_per_chunk(self) -> int:
        """Iterations between two evaluations, which are one compiled program. All chunks have the same length."""
        return math.ceil(self.num_iterations / self.num_chunks)

    @property
    def chunk_env_steps(self) -> int:
        """Environment steps between two evaluations."""
        return self.iterations_per_chunk * self.iteration_env_steps

    @property
    def trained_env_steps(self) -> int:
        """Environment steps of the run: `total_env_steps`, rounded up to whole chunks. Schedules end here."""
        return self.num_chunks * self.chunk_env_steps

    @property
    def has_replay(self) -> bool:
        """Whether updates sample from the replay buffer. If not, they take minibatches of the newest rollout's
        sequences, which are shuffled before each pass; `env_steps_per_update` still sets the number of updates.
        """
        return self.replay.capacity > 0

    @property
    def replay_sequences(self) -> int:
        """Sequences in the replay buffers of all devices: whole rollouts."""
        return self.replay.capacity // self.iteration_env_steps * self.rollout.num_envs

    @property
    def max_updates_per_iteration(self) -> int:
        """The largest number of updates in one iteration."""
        return math.ceil(self.iteration_env_steps / self.learner.env_steps_per_update)


def to_mapping(config: Config) -> dict[str, Any]:
    """The nested mapping of which `build.from_mapping` makes this config."""
    groups = dataclasses.asdict(config)
    groups["env"] |= groups["env"].pop("settings")
    groups["algorithm"] |= groups["algorithm"].pop("options")
    return groups


def by_name(config: Config) -> dict[str, Any]:
    """Every setting under its name on the command line."""
    return flatten(to_mapping(config))
