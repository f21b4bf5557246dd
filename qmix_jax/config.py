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
from typing import Any, Literal

MAX_ENV_STEPS = 2**31 - 1  # the clock counts in int32


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
        raise ConfigError(f"{name}={value} is not known{hint}")


def _positive(section: str, settings: Any, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        require(value > 0, f"{section}{name}={value} must be greater than 0")


def _share(section: str, settings: Any, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        require(0 <= value <= 1, f"{section}{name}={value} must lie between 0 and 1")


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


@dataclass(frozen=True)
class MatrixConfig:
    """A game of one step: the payoff is indexed by the agents' actions, one axis an agent."""

    payoff: tuple = ((8.0, -12.0, -12.0), (-12.0, 0.0, 0.0), (-12.0, 0.0, 0.0))


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

    punishment: float = 0.0
    """The team's reward when one agent tries to capture a prey alone: 0 (easy) to -2 (hard), as published."""


@dataclass(frozen=True)
class ProbeConfig:
    """A tiny world whose observations name the episode and the time in it; for tests and for debugging."""

    num_agents: int = 2
    episode_length: int = 5
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
    starts_per_rollout: int = 3
    """Fresh episodes prepared for each environment before a rollout. Should cover the most that can end in one:
    the sequence's length over the shortest episode's."""
    shield: str | None = None
    """A function, as `package.module:function`, that narrows the legal actions (see docs/shield.md)."""

    def __post_init__(self):
        _positive("env.", self, "starts_per_rollout")


# --- the parts of a run ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AlgorithmConfig:
    """Which mixer, and its own options (the fields of its class in `qmix_jax.mixers`)."""

    name: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class AgentConfig:
    """The recurrent Q-network of each agent."""

    hidden_size: int = 64
    layer_norm: bool = False
    """Normalise the first layer, and the recurrent state before the last layer."""
    use_agent_id: bool = True
    use_last_action: bool = True
    share_parameters: bool = True
    kind: Literal["gru", "transformer"] = "gru"
    """transformer: attention over the entities that an agent sees, see `qmix_jax.agents.transformer`."""
    num_heads: int = 4
    """Of a transformer's attention."""
    num_layers: int = 2
    """Of a transformer."""

    def __post_init__(self):
        _positive("agent.", self, "hidden_size", "num_heads", "num_layers")
        is_plain = self.share_parameters and not (self.layer_norm or self.use_agent_id or self.use_last_action)
        require(
            self.kind == "gru" or is_plain,
            "agent.kind=transformer knows entities only; set agent.use_agent_id=false agent.use_last_action=false "
            "agent.layer_norm=false agent.share_parameters=true",
        )


@dataclass(frozen=True)
class RolloutConfig:
    """How experience is gathered: each iteration takes num_steps in each of num_envs environments."""

    num_envs: int = 32
    num_steps: int = 32
    whole_episodes: bool = False
    """Start every rollout afresh and ignore what follows its first episode (PyMARL's semantics)."""

    def __post_init__(self):
        _positive("rollout.", self, "num_envs", "num_steps")


@dataclass(frozen=True)
class ExplorationConfig:
    """Epsilon-greedy: linear from `start` to `finish` over `decay_env_steps`."""

    start: float = 1.0
    finish: float = 0.05
    decay_env_steps: int = 100_000

    def __post_init__(self):
        _share("exploration.", self, "start", "finish")
        require(self.decay_env_steps >= 0, f"exploration.decay_env_steps={self.decay_env_steps} must not be negative")


@dataclass(frozen=True)
class ReplayConfig:
    """Replay of whole sequences, sampled uniformly."""

    capacity: int = 262_144
    """Environment steps kept; rounded down to whole rollouts. 0: no replay (see `Config.has_replay`)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """In which observations (or what they are made from) are kept: bfloat16 takes half, and rounds to 3 digits."""

    def __post_init__(self):
        require(self.capacity >= 0, f"replay.capacity={self.capacity} must not be negative")


@dataclass(frozen=True)
class LearnerConfig:
    """The temporal-difference update."""

    batch_size: int = 32
    """Sequences an update."""
    env_steps_per_update: float = 512
    """One update for every so many environment steps, at any number of environments."""
    start_env_steps: int = 20_000
    """Learning starts with the iteration that reaches this step."""
    burn_in: int = 0
    """Steps at a sequence's start that only warm up the recurrent state."""
    gamma: float = 0.99
    td_lambda: float = 0.8
    double_q: bool = True
    optimizer: Literal["adam", "radam", "rmsprop"] = "adam"
    learning_rate: float = 1e-3
    final_learning_rate: float | None = 1e-4
    """Where the linear decay over `total_env_steps` ends; null: no decay."""
    adam_epsilon: float = 1e-8
    """Added to the denominator of Adam, RAdam and RMSprop."""
    max_grad_norm: float = 10.0
    reward_scale: float = 1.0

    def __post_init__(self):
        names = ("batch_size", "env_steps_per_update", "learning_rate", "max_grad_norm", "reward_scale", "adam_epsilon")
        _positive("learner.", self, *names)
        _share("learner.", self, "gamma", "td_lambda")
        require(self.start_env_steps >= 0, f"learner.start_env_steps={self.start_env_steps} must not be negative")
        require(self.burn_in >= 0, f"learner.burn_in={self.burn_in} must not be negative")
        final = self.final_learning_rate
        require(final is None or final >= 0, f"learner.final_learning_rate={final} must not be negative")


@dataclass(frozen=True)
class TargetConfig:
    """The target network: agent and mixer together."""

    mode: Literal["hard", "soft", "none"] = "hard"
    """none: targets bootstrap from the online networks, held fixed."""
    every_env_steps: int = 5_120
    """hard: copy the parameters with the iteration that passes each multiple of this."""
    tau: float = 0.005
    """soft: move by this share after every update."""

    def __post_init__(self):
        _positive("target.", self, "every_env_steps")
        require(0 < self.tau <= 1, f"target.tau={self.tau} must lie in (0, 1]")


@dataclass(frozen=True)
class EvaluationConfig:
    """Greedy evaluation, compiled into the training program."""

    every_env_steps: int = 100_000
    episodes: int = 128

    def __post_init__(self):
        _positive("evaluation.", self, "every_env_steps", "episodes")


@dataclass(frozen=True)
class CheckpointConfig:
    """When the whole training state is saved, and what is kept of it."""

    every_env_steps: int | None = 1_000_000
    """Besides the end; null: only then."""
    keep_last: int = 2
    keep_best: int = 1
    """How many are kept for their score, besides the last."""
    metric: Literal["auto", "eval/win_rate", "eval/return", "train/win_rate", "train/return"] = "auto"
    """The score, averaged over seeds; auto: eval/win_rate where there is one, or else eval/return."""
    replay: bool = True
    """Save the replay too; false: a resumed run learns only after it has gathered learner.start_env_steps anew."""

    def __post_init__(self):
        _positive("checkpoint.", self, "keep_last")
        every = self.every_env_steps
        require(every is None or every > 0, f"checkpoint.every_env_steps={every} must be greater than 0, or null")
        require(self.keep_best >= 0, f"checkpoint.keep_best={self.keep_best} must not be negative")


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


@dataclass(frozen=True)
class Config:
    """All settings of one run."""

    env: EnvConfig
    algorithm: AlgorithmConfig
    seed: int = 0
    num_seeds: int = 1
    total_env_steps: int = 2_500_000
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
        _positive("", self, "num_seeds", "total_env_steps")
        require(self.seed >= 0, f"seed={self.seed} must not be negative")
        largest = 2**31 - self.num_seeds
        require(self.seed <= largest, f"seed={self.seed} must not be greater than {largest} (2^31 - num_seeds)")
        last = self.num_chunks * self.chunk_env_steps
        require(
            last <= MAX_ENV_STEPS, f"total_env_steps={self.total_env_steps} is more than the clock counts (2^31 - 1)"
        )
        is_count = self.devices.isdigit() and int(self.devices) > 0
        require(self.devices == "auto" or is_count, f"devices={self.devices} must be auto or a number of devices")
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
            f"learner.batch_size={batch} does not divide rollout.num_envs={envs}, and without replay the newest "
            f"rollout's sequences are learnt from in equal minibatches; set learner.batch_size={math.gcd(batch, envs)}",
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
    def iterations_per_chunk(self) -> int:
        """Iterations between two evaluations: one compiled program."""
        total = math.ceil(self.total_env_steps / self.iteration_env_steps)
        return min(total, math.ceil(self.evaluation.every_env_steps / self.iteration_env_steps))

    @property
    def chunk_env_steps(self) -> int:
        """Environment steps between two evaluations."""
        return self.iterations_per_chunk * self.iteration_env_steps

    @property
    def num_chunks(self) -> int:
        """Chunks until `total_env_steps` is reached."""
        return math.ceil(self.total_env_steps / self.chunk_env_steps)

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
    require(isinstance(values, Mapping), f"{where}={values} must be a group of settings")
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
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        return _convert(value, next(option for option in options if option is not type(None)), path)
    if origin is Literal:
        choose(path, value, typing.get_args(hint))
        return value
    if hint is tuple or origin is tuple:
        require(isinstance(value, list | tuple), f"{path}={value} must be a list")
        return tuple(tuple(item) if isinstance(item, list) else item for item in value)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return build(hint, value, path + ".")
    if path == "devices":
        return str(value)
    return _scalar(value, hint, path)


def _scalar(value: Any, kind: type, path: str) -> Any:
    """A bool, int, float or str, without losing anything: 1e6 is an integer, 1.5 is not."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and is_number and float(value).is_integer():
        return int(value)
    if kind is float and is_number and math.isfinite(value):
        return float(value)
    if kind is str and isinstance(value, str | int):
        return str(value)
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
    raise ConfigError(f"{path}={value} must be {names[kind]}")


def from_mapping(values: Mapping[str, Any]) -> Config:
    """The config of a run from nested mappings (Hydra's, as plain containers)."""
    from qmix_jax.mixers import MIXERS

    hints = {f.name: f.type for f in dataclasses.fields(Config)}
    check_keys(values, hints)
    for group in ("env", "algorithm"):
        require(group in values, f"no {group} chosen; add {group}=NAME")
        require(isinstance(values[group], Mapping), f"{group}={values[group]} must be a group of settings")
    env, algorithm = dict(values["env"]), dict(values["algorithm"])
    env_name, mixer_name = str(env.pop("name", "")), str(algorithm.pop("name", ""))
    choose("env", env_name, list(ENVIRONMENTS))
    choose("algorithm", mixer_name, list(MIXERS))
    common = {key: env.pop(key) for key in ("starts_per_rollout", "shield") if key in env}
    settings = build(ENVIRONMENTS[env_name], env, "env.")
    options = build(MIXERS[mixer_name], algorithm, "algorithm.")
    _positive("algorithm.", options, *[name for name in algorithm if type(getattr(options, name)) is int])
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
