"""The settings of a run: frozen dataclasses, checked when they are made, with the counts that follow from them.

Every count of time in a setting is in **environment steps**: one step of one environment, summed over all
environments of a seed, whatever the number of environments or devices. `num_envs`, `batch_size` and
`replay.capacity` are totals over all devices.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from qmix_jax.import_path import title_of
from qmix_jax.settings import (
    LARGEST_INT,
    Count,
    NotNegative,
    Positive,
    PositiveShare,
    Range,
    Share,
    Size,
    Steps,
    Traced,
    check_ranges,
    flatten,
    require,
    shown,
    traced_property,
)


@dataclass(frozen=True)
class EnvConfig:
    """The environment and its own settings."""

    name: str
    """The environment; chosen by env=NAME."""
    settings: Any
    """The environment's own dataclass."""
    starts_per_rollout: Count | None = None
    """Fresh episodes per environment and rollout, reused where more are needed; null: the most that can be needed."""
    shield: str | None = None
    """A function, as package.module:function, that narrows the legal actions (docs/shield.md)."""
    given: Any = field(default=None, repr=False)
    """The environment, or its class, where it comes from Python and not from the name."""

    def __post_init__(self):
        check_ranges("env.", self)
        check_ranges("env.", self.settings)


@dataclass(frozen=True)
class AlgorithmConfig:
    """The mixer and its own options."""

    name: str
    """The mixer; chosen by algorithm=NAME."""
    options: Mapping[str, Any]
    """Every field of the mixer's class that is an option."""
    given: Any = field(default=None, repr=False)
    """The mixer, where it was made in Python and not from the options."""

    @property
    def title(self) -> str:
        """The name for people (see `title_of`)."""
        return title_of(self.name)


@dataclass(frozen=True)
class AgentConfig:
    """The network of the agents and its own settings."""

    name: str
    """The network; chosen by agent=NAME."""
    settings: Any
    """The network's own dataclass."""
    given: Any = field(default=None, repr=False)
    """The agents, or their class, where they come from Python and not from the name."""

    def __post_init__(self):
        check_ranges("agent.", self.settings)


@dataclass(frozen=True)
class Section:
    """A group of settings, named as its class, whose ranges are checked."""

    def __post_init__(self):
        check_ranges(f"{type(self).__name__.removesuffix('Config').lower()}.", self)


@dataclass(frozen=True)
class RolloutConfig(Section):
    """How experience is gathered: each iteration takes num_steps in each of num_envs environments."""

    num_envs: Count = 32
    """Environments stepped at once, over all devices."""
    num_steps: Count = 32
    """Steps of a rollout, and so the length of the sequences in replay."""
    whole_episodes: bool = False
    """Reset before every rollout and ignore what follows its first episode, as PyMARL does."""


@dataclass(frozen=True)
class ExplorationConfig(Section):
    """Epsilon-greedy exploration with a linear schedule."""

    start: Traced[Share] = 1.0
    """Epsilon at step 0."""
    finish: Traced[Share] = 0.05
    """Epsilon after the decay."""
    decay_env_steps: Traced[Steps] = 100_000
    """Environment steps from start to finish."""
    team_epsilon: Share = 0.0
    """Share of the steps in which a team's agents all try one random action, and keep to it for some steps."""
    team_steps: Count = 6
    """How many steps they keep to it, in the mean, where no rollout ends before."""
    team_actions: tuple[int, ...] = ()
    """The actions that they try, by number; []: all."""

    change = traced_property(lambda self: self.finish - self.start)
    """From start to finish."""


@dataclass(frozen=True)
class ReplayConfig(Section):
    """Replay of whole sequences, sampled uniformly."""

    capacity: Annotated[int, Range(0, 10**15, "must not be negative, nor greater than 10^15")] = 262_144
    """Environment steps kept, rounded down to whole rollouts; 0: learn from the newest rollout alone."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Observations in replay: float32, or bfloat16 (half the memory, rounded to 3 digits)."""


@dataclass(frozen=True)
class LearnerConfig(Section):
    """The temporal-difference update."""

    batch_size: Count = 32
    """Sequences of an update."""
    env_steps_per_update: Positive = 512
    """Environment steps per update, at any number of environments."""
    start_env_steps: Steps = 20_000
    """Learning starts with the iteration that reaches this step."""
    burn_in: Steps = 0
    """Steps at the start of a sequence that only warm up the recurrent state."""
    gamma: Traced[Share] = 0.99
    """Discount of a step."""
    td_lambda: Traced[Share] = 0.8
    """Lambda of the targets; 0: one-step targets; 1: returns to the end of the sequence."""
    double_q: bool = True
    """The online network chooses the next action, the target network values it."""
    loss: Literal["squared", "huber"] = "squared"
    """The loss of a temporal-difference error (`qmix_jax.learning.losses`)."""
    optimizer: Literal["adam", "radam", "rmsprop"] = "adam"
    """The optimiser of agents and mixer."""
    learning_rate: Traced[Positive] = 1e-3
    """The learning rate at the start."""
    final_learning_rate: Traced[NotNegative] | Literal["share"] | None = "share"
    """Where its linear decay over the run ends: a rate; share: final_learning_rate_share of it; null: no decay."""
    final_learning_rate_share: Traced[NotNegative] = 0.1
    """The end as a share of learning_rate, with final_learning_rate=share."""
    adam_epsilon: Traced[Positive] = 1e-8
    """Added to the denominator of Adam, RAdam and RMSprop."""
    max_grad_norm: Traced[Positive] = 10.0
    """Clips the global norm of the gradient of agents and mixer together."""
    reward_scale: Traced[Positive] = 1.0
    """Multiplies rewards in the loss; reported returns are unscaled."""

    def __post_init__(self):
        super().__post_init__()
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
        last = self.final_learning_rate
        if isinstance(last, float | int):
            return last
        return self.learning_rate * (self.final_learning_rate_share if last == "share" else 1)

    learning_rate_change = traced_property(lambda self: self.last_learning_rate - self.learning_rate)
    """From the start to the end of the run."""


@dataclass(frozen=True)
class TargetConfig(Section):
    """The target network: agent and mixer together."""

    mode: Literal["hard", "soft", "none"] = "hard"
    """hard: copied now and then; soft: moved after every update; none: targets bootstrap from the online networks."""
    every_env_steps: Count = 5_120
    """With hard: copied in the iteration that passes a multiple of this."""
    tau: Traced[PositiveShare] = 0.005
    """With soft: moved by this share of the difference."""

    kept = traced_property(lambda self: 1 - self.tau)
    """With soft: the share of the target network that stays."""


@dataclass(frozen=True)
class EvaluationConfig(Section):
    """Greedy evaluation, compiled into the training program."""

    every_env_steps: Count = 100_000
    """The most environment steps between evaluations, rounded up to iterations; they are spread evenly."""
    episodes: Count = 128
    """Episodes of an evaluation, for each seed."""
    score: Literal["last", "best", "area"] = "last"
    """Which score of checkpoint.metric a sweep compares: the last, the best, or the mean area under the curve."""


@dataclass(frozen=True)
class CheckpointConfig(Section):
    """The whole training state, from which `qmix-jax train --resume RUN_FOLDER` continues."""

    every_env_steps: Count | None = 1_000_000
    """Environment steps between two checkpoints; null: only at the end, where one is always written."""
    keep_last: Count = 2
    """The newest checkpoints kept."""
    keep_best: Steps = 1
    """The checkpoints kept for their score, besides the newest."""
    metric: str = "auto"
    """The score, averaged over seeds; auto: eval/win_rate where there is one, else eval/return."""
    replay: bool = True
    """Save the replay buffer too; false: small checkpoints, but a resumed run first gathers start_env_steps anew."""

    def __post_init__(self):
        super().__post_init__()
        is_known = self.metric == "auto" or self.metric.startswith(("eval/", "train/"))
        require(is_known, f"checkpoint.metric={shown(self.metric)} must be auto, eval/NAME or train/NAME")


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases (docs/dashboards.md)."""

    mode: Literal["disabled", "offline", "online"] = "disabled"
    """Whether and where results are logged."""
    project: str = "qmix_jax"
    """The project's name."""
    entity: str | None = None
    """Your user or team; null: your default."""
    group: str | None = None
    """The runs' group; null: a sweep's jobs share one, and so do the runs of per_seed."""
    tags: tuple[str, ...] = ()
    """Tags of the run."""
    per_seed: bool = False
    """A run for each seed; false: one run with mean, interval and every seed."""
    artifacts: bool = False
    """Upload every checkpoint."""


@dataclass(frozen=True)
class LoggingConfig:
    """What a run prints and writes."""

    display: Literal["auto", "live", "plain", "none"] = "auto"
    """Printed while training; auto: live on a terminal, else plain."""
    film: bool = True
    """Write a GIF of the trained team."""
    tensorboard: bool = False
    """Write TensorBoard event files; needs pip install 'qmix-jax[tensorboard]'."""
    wandb: WandbConfig = field(default_factory=WandbConfig)


@dataclass(frozen=True)
class Config:
    """All settings of one run."""

    env: EnvConfig
    algorithm: AlgorithmConfig
    agent: AgentConfig
    seed: Steps = 0
    """The first seed; docs/settings.md says what gives equal numbers."""
    num_seeds: Size = 1
    """Seeds trained side by side in one program, counted up from seed."""
    num_seeds_at_once: Size | Literal["auto"] = "auto"
    """The most seeds side by side, others in further even batches; auto: as many as memory allows."""
    total_env_steps: Count = 2_500_000
    """Environment steps of each seed, rounded up to whole rollouts between evaluations."""
    devices: str = "auto"
    """How many devices, CPU cores included; auto: all that the work divides over."""
    callbacks: tuple[str, ...] = ()
    """Classes, as package.module:Class, whose objects are called while the run trains (docs/python.md)."""
    import_folders: tuple[str, ...] = ()
    """Folders in which the modules of import paths are looked for, besides Python's own; training records them."""
    matmul_dtype: Literal["float32", "bfloat16"] = "float32"
    """Inputs of matrix products in training: float32, or bfloat16 (faster on CPUs with AMX)."""
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
        is_known = self.devices in ("auto", *map(str, range(1, 4097)))
        require(is_known, f"devices={shown(self.devices)} must be auto or a number of devices (1 to 4096)")
        require(
            self.replay_sequences > 0 or not self.has_replay,
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
        burn_in, length = self.learner.burn_in, self.rollout.num_steps
        require(burn_in < length, f"learner.burn_in={burn_in} leaves nothing of rollout.num_steps={length}")

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
        """Whether updates sample from the replay buffer; if not, they take minibatches of the newest rollout."""
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
    groups = {group: replace(getattr(config, group), given=None) for group in ("env", "algorithm", "agent")}
    groups = dataclasses.asdict(replace(config, **groups))
    for group in ("env", "algorithm", "agent"):
        del groups[group]["given"]
    for group in ("env", "agent"):
        groups[group] |= groups[group].pop("settings")
    groups["algorithm"] |= groups["algorithm"].pop("options")
    return groups


def by_name(config: Config) -> dict[str, Any]:
    """Every setting under its name on the command line."""
    return flatten(to_mapping(config))
