"""The settings of a run: frozen dataclasses, checked when they are made, with the counts that follow from them.

Every count of time in a setting is in **environment steps**: one step of one environment, summed over all
environments of a seed, whatever the number of environments or devices. `num_envs`, `batch_size` and
`replay.capacity` are global numbers too: devices share them out.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal


class ConfigError(ValueError):
    """A setting is wrong; the message is one line that names the mistake and the way out."""


def nearest(word: str, choices: Sequence[str]) -> str:
    """` (did you mean 'x'?)` for the choice most like `word`, or '' when none is."""
    last = {choice.rsplit(".", 1)[-1]: choice for choice in choices}
    match = difflib.get_close_matches(word, choices, 1, 0.6) or [
        last[key] for key in difflib.get_close_matches(word.rsplit(".", 1)[-1], list(last), 1, 0.6)
    ]
    return f" (did you mean '{match[0]}'?)" if match else ""


def require(condition: bool, message: str) -> None:
    """Raise `ConfigError(message)` unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def choose(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise unless `value` is one of `choices`, naming the nearest."""
    if value not in choices:
        hint = nearest(str(value), list(choices)) or f"; choose one of {', '.join(choices)}"
        raise ConfigError(f"{name}={shown(value)} is not known{hint}")


# --- where numbers must lie --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Range:
    """Where a setting must lie, `low` and `high` included, as part of its type: `share: Annotated[float, Range(...)]`.

    `rule` says so in words that follow "gamma=2".
    """

    low: float
    high: float
    rule: str

    def check(self, name: str, value: float) -> None:
        """Raise ConfigError unless the value lies there; NaN lies nowhere."""
        require(self.low <= value <= self.high, f"{name}={shown(value)} {self.rule}")


LARGEST_INT = 2**31 - 1  # of int32, in which the clock counts
LARGEST, SMALLEST = 3.4028234e38, 1.1754944e-38  # of float32, beside 0

ANY_INT = Range(-LARGEST_INT, LARGEST_INT, "must be a number that int32 holds (up to 2^31 - 1)")
ANY_FLOAT = Range(-LARGEST, LARGEST, "must be a number that float32 holds (up to 3.4e38)")

Positive = Annotated[float, Range(SMALLEST, LARGEST, "must be greater than 0, in float32 (1.2e-38 to 3.4e38)")]
NotNegative = Annotated[float, Range(0, LARGEST, "must not be negative, nor greater than float32 holds (3.4e38)")]
NotPositive = Annotated[float, Range(-LARGEST, 0, "must not be greater than 0, nor less than float32 holds (-3.4e38)")]
Share = Annotated[float, Range(0, 1, "must lie between 0 and 1")]
Scale = Annotated[float, Range(0, 1000, "must lie between 0 and 1000")]
"""Of what a layer's weights begin as."""
PositiveShare = Annotated[float, Range(SMALLEST, 1, "must lie in (0, 1]")]
Steps = Annotated[int, Range(0, LARGEST_INT, "must not be negative, nor greater than 2^31 - 1")]
Count = Annotated[int, Range(1, LARGEST_INT, "must be greater than 0, and 2^31 - 1 at most")]
Size = Annotated[int, Range(1, 2**16, "must be greater than 0, and 65536 at most")]
"""Of a layer; also how many seeds there can be."""
Few = Annotated[int, Range(1, 1000, "must be greater than 0, and 1000 at most")]
"""Layers, heads, agents: what a program is written out for."""


def check_ranges(section: str, settings: Any) -> None:
    """Raise ConfigError for the first number of a dataclass (a mixer's too) outside the `Range` of its type, or else
    outside what the program's numbers hold.
    """
    hints = typing.get_type_hints(type(settings), include_extras=True)
    for setting in dataclasses.fields(settings):
        hint, value = hints.get(setting.name), getattr(settings, setting.name, None)
        if isinstance(value, int | float):
            options = typing.get_args(hint) if _is_union(hint) else (hint,)
            declared = [limit for option in options for limit in getattr(option, "__metadata__", ())]
            for limit in declared or [ANY_INT if isinstance(value, int) else ANY_FLOAT]:
                limit.check(section + setting.name, value)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def shown(value: Any) -> str:
    """A value as a command line writes it, and no longer than a line can bear."""
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else "null" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:40]}...{text[-20:]}"


# --- environments ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SmaxConfig:
    """StarCraft-like battles against JaxMARL's heuristic enemy, with JaxMARL's training settings by default."""

    map: str = "2s3z"
    see_enemy_actions: bool = True
    walls_cause_death: bool = True
    attack_mode: Literal["closest", "random"] = "closest"
    scale_state: bool = True
    """Divide the features of the global state by their ranges, so that all lie in [0, 1]; false: JaxMARL's raw state,
    whose coordinates (0 to 32) drown health (0 to 1)."""


@dataclass(frozen=True)
class MpeConfig:
    """Cooperative particle worlds of JaxMARL."""

    task: Literal["simple_spread", "simple_reference", "simple_speaker_listener"] = "simple_spread"


@dataclass(frozen=True)
class TwoStepConfig:
    """The QMIX paper's two-step game."""


MAX_AXES = 32  # of a payoff


@dataclass(frozen=True)
class MatrixConfig:
    """A game of one step: the payoff is indexed by the agents' actions, one axis an agent."""

    payoff: tuple = ((8.0, -12.0, -12.0), (-12.0, 0.0, 0.0), (-12.0, 0.0, 0.0))

    def __post_init__(self):
        num_axes = len(_table_shape(self.payoff))
        require(num_axes > 1, "env.payoff needs one axis an agent and two agents or more, such as [[1,0],[0,2]]")


def _table_shape(table: Any, depth: int = 0) -> tuple[int, ...]:
    """The lengths of a table's axes, of nested lists of numbers; raises ConfigError where it is none."""
    require(depth <= MAX_AXES, f"env.payoff has more than {MAX_AXES} axes, one an agent")
    if not isinstance(table, list | tuple):
        is_number = isinstance(table, int | float) and not isinstance(table, bool)
        require(is_number and abs(table) <= LARGEST, f"env.payoff holds {shown(table)}, which is no number of float32")
        return ()
    shapes = {_table_shape(row, depth + 1) for row in table}
    require(len(shapes) == 1, "env.payoff must be a table of numbers with rows of one length, and none of them empty")
    return len(table), *shapes.pop()


@dataclass(frozen=True)
class ClimbingConfig:
    """The climbing game: the way to its best payoff leads through its worst."""


@dataclass(frozen=True)
class PenaltyConfig:
    """The penalty game: two best payoffs, and `k` for agents that do not agree on which."""

    k: float = -100.0


@dataclass(frozen=True)
class QplexGameConfig:
    """The matrix games of the QPLEX paper; its other one, QTRAN's, is the default payoff of `MatrixConfig`."""

    game: Literal["harder", "flat"] = "harder"


@dataclass(frozen=True)
class PredatorPreyConfig:
    """Eight agents hunt eight prey on a grid, two at a time."""

    punishment: NotPositive = 0.0
    """The team's reward when one agent tries to capture a prey alone: 0 (easy) to -2 (hard), as published."""


@dataclass(frozen=True)
class ProbeConfig:
    """A tiny world whose observations name the episode and the time in it; for tests and for debugging."""

    num_agents: Few = 2
    episode_length: Annotated[int, Range(1, 10**6, "must be greater than 0, and 1000000 at most")] = 5
    ends: Literal["terminated", "truncated", "random"] = "terminated"


EnvSettings = (
    SmaxConfig
    | MpeConfig
    | TwoStepConfig
    | MatrixConfig
    | ClimbingConfig
    | PenaltyConfig
    | QplexGameConfig
    | PredatorPreyConfig
    | ProbeConfig
)

ENVIRONMENTS: dict[str, type] = {
    "smax": SmaxConfig,
    "mpe": MpeConfig,
    "two_step": TwoStepConfig,
    "matrix": MatrixConfig,
    "climbing": ClimbingConfig,
    "penalty": PenaltyConfig,
    "qplex_game": QplexGameConfig,
    "predator_prey": PredatorPreyConfig,
    "probe": ProbeConfig,
}


@dataclass(frozen=True)
class EnvConfig:
    """Which environment, and its own settings."""

    name: str
    settings: EnvSettings
    starts_per_rollout: Count | None = None
    """Fresh episodes prepared for each environment before a rollout; one that needs more takes its first again. null:
    as many as can be needed (`rollout.fresh_episodes_needed`)."""
    shield: str | None = None
    """A function, as `package.module:function`, that narrows the legal actions (see docs/shield.md)."""

    def __post_init__(self):
        check_ranges("env.", self)
        check_ranges("env.", self.settings)


# --- the parts of a run ------------------------------------------------------------------------------------------


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
    loss: Literal["squared", "huber"] = "squared"
    """Of each temporal-difference error (`qmix_jax.learning.losses`)."""
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
            f"learner.final_learning_rate={last} is above learner.learning_rate={first}; set "
            f"learner.final_learning_rate=share, for an end at {self.final_learning_rate_share:g} times "
            f"the start, or also learner.final_learning_rate_share=2 if the rate should rise",
        )

    @property
    def last_learning_rate(self) -> float:
        """Where the learning rate ends: where it begins, without decay."""
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
            f"learner.env_steps_per_update={self.learner.env_steps_per_update} asks for {updates:.2g} updates in "
            f"{self.trained_env_steps} steps, and 2^31 - 1 are counted; raise it",
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
        """Iterations between two evaluations: one compiled program. All chunks are of one length."""
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
        """Whether updates draw from replay. If not, they take the newest rollout's sequences, shuffled, `batch_size` at
        a time, and shuffle again after each pass over them, as often as `env_steps_per_update` says.
        """
        return self.replay.capacity > 0

    @property
    def replay_sequences(self) -> int:
        """Sequences that replay keeps, over all devices: whole rollouts."""
        return self.replay.capacity // self.iteration_env_steps * self.rollout.num_envs

    @property
    def max_updates_per_iteration(self) -> int:
        """The most updates that can fall due in one iteration."""
        return math.ceil(self.iteration_env_steps / self.learner.env_steps_per_update)


# --- from a mapping ----------------------------------------------------------------------------------------------


def build(cls: type, values: Any, path: str = "") -> Any:
    """Make the dataclass `cls` from a mapping; unknown keys and wrong types raise, naming the nearest right one."""
    where = path.rstrip(".") or "the config"
    require(isinstance(values, Mapping), f"{where}={shown(values)} must be a group of settings")
    hints = typing.get_type_hints(cls)
    fields = {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init and f.name not in NOT_OPTIONS}
    check_keys(values, fields, path)
    return cls(**{key: _convert(value, fields[key], path + key) for key, value in values.items()})


NOT_OPTIONS = ("parent", "name", "entities")  # what flax adds to a module's own fields, and what an environment gives


def check_keys(values: Mapping, known: typing.Iterable[str], path: str = "") -> None:
    """Raise for the first key of `values` that is not known, naming the nearest that is."""
    known = list(known)
    for key in values:
        if key not in known:
            hint = nearest(path + str(key), [path + name for name in known])
            raise ConfigError(f"unknown setting '{path}{key}'{hint or '; known here: ' + ', '.join(known)}")


def _convert(value: Any, hint: Any, path: str) -> Any:
    """`value` as the type that `hint` asks for, or ConfigError."""
    origin = typing.get_origin(hint)
    if _is_union(hint):
        return _convert_to_one(value, typing.get_args(hint), path)
    if origin is Literal:
        choose(path, value, typing.get_args(hint))
        return value
    if hint is tuple or origin is tuple:
        require(isinstance(value, list | tuple), f"{path}={shown(value)} must be a list")
        return _nested(value) if hint is tuple else tuple(_convert(x, typing.get_args(hint)[0], path) for x in value)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return build(hint, value, path + ".")
    return _scalar(value, hint, path)


def _convert_to_one(value: Any, options: tuple, path: str) -> Any:
    """`value` as one of several types: null and words where they are among them, else as the one that is left."""
    words = [word for option in options if typing.get_origin(option) is Literal for word in typing.get_args(option)]
    if value in words or (value is None and type(None) in options):
        return value
    (kind,) = (option for option in options if option is not type(None) and typing.get_origin(option) is not Literal)
    also = [*words, *["null"] * (type(None) in options)]
    return _scalar(value, kind, path, f", or {' or '.join(also)}")


def _nested(table: Any) -> Any:
    """Lists within lists as tuples."""
    return tuple(map(_nested, table)) if isinstance(table, list | tuple) else table


def _scalar(value: Any, kind: type, path: str, also: str = "") -> Any:
    """A bool, int, float or str, without losing anything: 1e6 is a whole number, 1.5 is none, and 3 can be a word."""
    is_bool = isinstance(value, bool)
    is_int = isinstance(value, int) and not is_bool
    if (kind is bool and is_bool) or (kind is int and is_int):
        return value
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is float and (is_int or isinstance(value, float)) and abs(value) < 10**300:
        return float(value)
    if kind is str and (isinstance(value, str) or is_int):
        return str(value)
    word = f"a word; in quotes where it looks like something else: {path}='\"{shown(value)}\"'"
    names = {bool: "true or false", int: "a whole number", float: "a finite number", str: word}
    raise ConfigError(f"{path}={shown(value)} must be {names[kind]}{also}")


def from_mapping(values: Mapping[str, Any]) -> Config:
    """The config of a run from nested mappings (Hydra's, as plain containers)."""
    from qmix_jax.mixers import MIXERS

    hints = {f.name: f.type for f in dataclasses.fields(Config)}
    check_keys(values, hints)
    for group in ("env", "algorithm"):
        require(group in values, f"no {group} chosen; add {group}=NAME")
        require(isinstance(values[group], Mapping), f"{group}={shown(values[group])} must be a group of settings")
    env, algorithm = dict(values["env"]), dict(values["algorithm"])
    env_name, mixer_name = str(env.pop("name", "")), str(algorithm.pop("name", ""))
    choose("env", env_name, list(ENVIRONMENTS))
    choose("algorithm", mixer_name, list(MIXERS))
    common = {key: env.pop(key) for key in ("starts_per_rollout", "shield") if key in env}
    settings = build(ENVIRONMENTS[env_name], env, "env.")
    options = build(MIXERS[mixer_name], algorithm, "algorithm.")
    check_ranges("algorithm.", options)
    rest = {key: value for key, value in values.items() if key not in ("env", "algorithm")}
    resolved, shared = typing.get_type_hints(Config), typing.get_type_hints(EnvConfig)
    return Config(
        env=EnvConfig(env_name, settings, **{k: _convert(v, shared[k], f"env.{k}") for k, v in common.items()}),
        algorithm=AlgorithmConfig(mixer_name, {key: getattr(options, key) for key in algorithm}),
        **{key: _convert(value, resolved[key], key) for key, value in rest.items()},
    )


def to_mapping(config: Config) -> dict[str, Any]:
    """The nested mapping that `from_mapping` makes the config of."""
    groups = dataclasses.asdict(config)
    groups["env"] |= groups["env"].pop("settings")
    groups["algorithm"] |= groups["algorithm"].pop("options")
    return groups


def flatten(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """A nested mapping by dotted names, as settings are called on the command line."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{path}{name}.") if isinstance(value, Mapping) else {f"{path}{name}": value}
    return flat


def by_name(config: Config) -> dict[str, Any]:
    """Every setting under its name on the command line."""
    return flatten(to_mapping(config))
