"""A tiny world for tests and debugging."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.definition import Definition
from qmix_jax.settings import Few, Range
from qmix_jax.types import Observation, Outcome, TeamSpec


@dataclass(frozen=True)
class ProbeConfig:
    """A tiny world whose observations name the episode and the time in it; for tests and for debugging."""

    num_agents: Few = 2
    """Agents of the team."""
    episode_length: Annotated[int, Range(1, 10**6, "must be greater than 0, and 1000000 at most")] = 5
    """Steps of an episode; random episodes may be shorter."""
    ends: Literal["terminated", "truncated", "random"] = "terminated"
    """How episodes end; random: at a random step, terminated or truncated."""


class ProbeState(NamedTuple):
    """The episode's number, the time in it and its length."""

    episode: Array
    time: Int[Array, ""]
    length: Int[Array, ""]


class Probe(TeamEnv):
    """A world whose observation names the episode (a random number), the time in it and the agent.

    The reward of step t is t + 1. Episodes end after `episode_length` steps (or after a random number up to it) by
    termination or truncation, as `ends` says. Agent i may take action a unless (time + i + a) is divisible by 3.
    """

    def __init__(self, settings: ProbeConfig):
        self.settings = settings
        names = tuple(f"agent_{i}" for i in range(settings.num_agents))
        limit = settings.episode_length
        self._shortest = 1 if settings.ends == "random" else limit
        self.spec = TeamSpec("probe", names, 3, 4, 3, episode_limit=limit, shortest_episode=self._shortest)

    def _observation(self, state: ProbeState) -> Observation:
        agent, action = jnp.arange(self.spec.num_agents), jnp.arange(self.spec.num_actions)
        common = jnp.stack([state.episode, state.time.astype(float)])
        obs = jnp.concatenate([jnp.tile(common, (self.spec.num_agents, 1)), agent[:, None].astype(float)], -1)
        available = (state.time + agent[:, None] + action) % 3 != 0
        return Observation(obs, available, jnp.append(common, state.length.astype(float)))

    def reset(self, key: jax.Array) -> tuple[ProbeState, Observation]:
        """Draw the episode's number and length."""
        name_key, length_key = jax.random.split(key)
        length = jax.random.randint(length_key, (), self._shortest, self.settings.episode_length + 1)
        state = ProbeState(jax.random.uniform(name_key), jnp.array(0), length)
        return state, self._observation(state)

    def step(self, key: jax.Array, state: ProbeState, action: Int[Array, "N"]) -> tuple[Any, Observation, Outcome]:
        """One step later."""
        del key
        state = state._replace(time=state.time + 1)
        ended = state.time >= state.length
        is_cut = {"terminated": False, "truncated": True, "random": state.length % 2 == 0}[self.settings.ends]
        outcome = Outcome(
            reward=state.time.astype(float),
            terminated=ended & ~jnp.array(is_cut),
            truncated=ended & is_cut,
            metrics={"win_rate": ended & (action[0] == 0)},
        )
        return state, self._observation(state), outcome

    def scene(self, state: ProbeState) -> dict[str, Any]:
        """The time."""
        return {"time": state.time}


def _team_sizes(settings: ProbeConfig) -> dict[str, ProbeConfig]:
    """One, two and four times as many agents."""
    counts = [factor * settings.num_agents for factor in (1, 2, 4)]
    return {str(count): replace(settings, num_agents=count) for count in counts}


TRAINING = {
    "total_env_steps": 40_000,
    "agent": {"hidden_size": 16},
    "rollout": {"num_envs": 8, "num_steps": 10},  # two episodes
    "exploration": {"decay_env_steps": 10_000},
    "replay": {"capacity": 40_000},
    "learner": {"batch_size": 32, "env_steps_per_update": 80, "start_env_steps": 1_000},  # one update a rollout
    "target": {"every_env_steps": 1_600},  # 20 updates
    "evaluation": {"every_env_steps": 4_000, "episodes": 32},
}

PROBE = Definition(
    settings=ProbeConfig,
    make=Probe,
    help="A tiny world whose observations name the episode and the time in it, for tests and debugging",
    training=TRAINING,
    team_sizes=_team_sizes,
)
