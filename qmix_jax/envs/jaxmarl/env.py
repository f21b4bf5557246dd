"""Any environment with JaxMARL's interface under the TeamEnv contract."""

from collections.abc import Sequence
from types import new_class
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.jaxmarl.settings import TeamReward
from qmix_jax.envs.layout import AgentLayout, Feature, Layout
from qmix_jax.settings import ConfigError, require
from qmix_jax.types import CompactObservation, Observation, Outcome, TeamSpec

NEVER = 2**30
"""A time limit that no episode reaches."""
MASKS = ("get_avail_actions", "get_legal_moves")
"""What JaxMARL's environments call the function from a state to the legal actions of each agent."""


class JaxMarlState(NamedTuple):
    """The environment's own state, and the steps since the reset."""

    inner: Any
    steps: Int[Array, ""]


class JaxMarlEnv(TeamEnv):
    """A `jaxmarl.environments.MultiAgentEnv` whose agents have a common goal and discrete actions.

    JaxMARL reports one `done` for the end of the task and for the time limit. Each step is therefore computed
    twice, with the limit and without it: an episode that is done with it alone is truncated, and one that is done
    without it has terminated. The compiler merges what the two have in common, but for loops.

    Observations are flattened and padded to the largest. The state is `world_state` of the observations where it is
    there, or else the agents' observations side by side. Legal actions are those of `get_avail_actions` (or
    `get_legal_moves`) where it gives each agent one number an action; otherwise all are legal.

    Args:
        env: the environment.
        name: for titles; None: that of its class.
        reward: the team's reward from the agents'.
        shaped_reward: how much of `info["shaped_reward"]`, the mean over the agents, is added to the reward.
        metrics: the entries of `info` that become metrics, as means over the agents.
        max_steps: the most steps of an episode; None: the environment's own limit.
    """

    def __init__(
        self,
        env: Any,
        name: str | None = None,
        *,
        reward: TeamReward = "mean",
        shaped_reward: float = 0.0,
        metrics: Sequence[str] = (),
        max_steps: int | None = None,
    ):
        name = type(env).__name__ if name is None else name
        self._env, self._endless = env, _endless(env)
        self._names = tuple(env.agents)
        self._reward, self._shaped_reward, self._metrics = reward, shaped_reward, tuple(metrics)
        self._num_actions = tuple(_num_actions(env, agent, name) for agent in self._names)
        obs, inner = jax.eval_shape(env.reset, jax.random.key(0))
        sees = all(hasattr(obs.get(agent), "size") for agent in self._names)
        require(sees, f"{name} cannot be trained: the observation of each agent must be one array")
        self._obs_sizes = tuple(obs[agent].size for agent in self._names)
        num_actions, obs_size = max(self._num_actions), max(self._obs_sizes)
        self._exists = np.arange(num_actions) < np.array(self._num_actions)[:, None]
        self._mask = self._find_mask(inner)
        self._has_state = "world_state" in obs
        limit = _own_limit(env)
        require(
            limit is not None or max_steps is not None,
            f"{name} has no max_steps, so set the most steps of an episode: env.max_steps=100",
        )
        self.spec = TeamSpec(
            name=name,
            agent_names=self._names,
            obs_size=obs_size,
            num_actions=num_actions,
            state_size=obs["world_state"].size if self._has_state else obs_size * len(self._names),
            episode_limit=min(each for each in (limit, max_steps) if each is not None),
        )
        if metrics or shaped_reward:
            self._check_info(name)

    def _find_mask(self, inner: Any) -> str | None:
        """The name of the environment's function for legal actions, if it gives each agent one number an action."""
        for name in MASKS:
            try:
                masks = jax.eval_shape(getattr(self._env, name), inner)
                shapes = [masks[agent].shape for agent in self._names]
            except (AttributeError, NotImplementedError, KeyError, TypeError):
                continue
            if shapes == [(count,) for count in self._num_actions]:
                return name
        return None

    def _check_info(self, name: str) -> None:
        def info_of(key: jax.Array) -> dict[str, Any]:
            action = dict.fromkeys(self._names, jnp.array(0))
            return self._env.step_env(key, self._env.reset(key)[1], action)[4]

        info = jax.eval_shape(info_of, jax.random.key(0))
        known = ", ".join(info) or "nothing"
        for metric in self._metrics:
            require(metric in info, f"env.metrics: the info of {name} has no '{metric}'; it has {known}")
        shaped = self._shaped_reward == 0 or "shaped_reward" in info
        require(shaped, f"env.shaped_reward: the info of {name} has no 'shaped_reward'; it has {known}")

    def reset(self, key: jax.Array) -> tuple[JaxMarlState, Observation]:
        """The environment's own reset."""
        obs, inner = self._env.reset(key)
        state = JaxMarlState(jax.tree.map(jnp.asarray, inner), jnp.array(0))
        return state, self._observation(obs, state)

    def step(
        self, key: jax.Array, state: JaxMarlState, action: Int[Array, "N"]
    ) -> tuple[JaxMarlState, Observation, Outcome]:
        """The environment's own step, without its reset after an end."""
        actions = dict(zip(self._names, action, strict=True))
        obs, inner, rewards, dones, info = self._env.step_env(key, state.inner, actions)
        endless = self._endless.step_env(jax.random.clone(key), state.inner, actions)
        terminated = jnp.asarray(endless[3]["__all__"], bool)
        inner = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), inner, state.inner)
        after = JaxMarlState(inner, state.steps + 1)
        over = jnp.asarray(dones["__all__"], bool) | (after.steps >= self.spec.episode_limit)
        reward = self._team_reward(rewards)
        scores = {name: _mean(info[name]) for name in self._metrics}
        if self._shaped_reward:
            scores["unshaped_return"] = reward
            reward = reward + self._shaped_reward * _mean(info["shaped_reward"])
        outcome = Outcome(reward, terminated, truncated=over & ~terminated, metrics=scores)
        return after, self._observation(obs, after), outcome

    def _team_reward(self, rewards: dict[str, Array]) -> Float[Array, ""]:
        own = jnp.stack([jnp.asarray(rewards[name], jnp.float32) for name in self._names])
        return {"mean": jnp.mean, "sum": jnp.sum, "shared": lambda own: own[0]}[self._reward](own)

    def _observation(self, obs: dict[str, Array], state: JaxMarlState) -> Observation:
        flat = [jnp.ravel(jnp.asarray(obs[name], jnp.float32)) for name in self._names]
        padded = [jnp.pad(each, (0, self.spec.obs_size - each.size)) for each in flat]
        world = jnp.ravel(jnp.asarray(obs["world_state"], jnp.float32)) if self._has_state else None
        return Observation(jnp.stack(padded), self._available(state), world)

    def _available(self, state: JaxMarlState) -> Bool[Array, "N A"]:
        """Every action where the environment says that an agent has no legal one, as it may after the end."""
        exists = jnp.array(self._exists)
        if self._mask is None:
            return exists
        masks = getattr(self._env, self._mask)(state.inner)
        rows = [jnp.asarray(masks[name], bool) for name in self._names]
        legal = jnp.stack([jnp.pad(row, (0, self.spec.num_actions - row.size)) for row in rows])
        return jnp.where(jnp.any(legal, axis=-1, keepdims=True), legal, exists)

    def compress(self, state: JaxMarlState, observation: Observation) -> CompactObservation:
        """The observation, without legal actions that never change."""
        del state
        return observation if self._mask else (observation.agents, observation.state)

    def decompress(self, compact: CompactObservation) -> Observation:
        """The same, with the legal actions."""
        return compact if self._mask else Observation(compact[0], jnp.array(self._exists), compact[1])

    def layout(self) -> Layout:
        """Numbers and actions by index, without the padding."""
        kinds = {
            agent: tuple(Feature(f"observation_{i}") for i in range(size))
            for agent, size in zip(self._names, self._obs_sizes, strict=True)
        }
        agents = tuple(
            AgentLayout(((agent, agent),), tuple(f"action_{i}" for i in range(count)))
            for agent, count in zip(self._names, self._num_actions, strict=True)
        )
        return Layout(kinds, agents, "as the environment says", () if self._has_state else None)


def _mean(entry: Any) -> Float[Array, ""]:
    """The mean over the agents of an entry of `info`."""
    return jnp.mean(jnp.stack([jnp.mean(jnp.asarray(leaf, jnp.float32)) for leaf in jax.tree.leaves(entry)]))


def _num_actions(env: Any, agent: str, name: str) -> int:
    space = env.action_space(agent)
    if not hasattr(space, "n"):
        kind = type(space).__name__
        raise ConfigError(f"{name} cannot be trained: the actions of {agent} are {kind}, and must be Discrete")
    return int(space.n)


def _own_limit(env: Any) -> int | None:
    """An upper bound of an episode's steps: some of JaxMARL's environments take one more than their `max_steps`."""
    limit = getattr(env, "max_steps", None)
    return None if limit is None else int(limit) + 1


def _endless(env: Any) -> Any:
    """A copy of the environment, and of what it wraps, whose time limit is never reached. The limit may be an attribute
    of the object or of its class, or a property, and the object may be frozen.
    """
    changes = {} if _own_limit(env) is None else {"max_steps": NEVER}
    cls = new_class(type(env).__name__, (type(env),), exec_body=lambda body: body.update(changes))
    copy = object.__new__(cls)  # copy.copy fails where attributes are looked up in what is wrapped
    vars(copy).update(vars(env), **changes)
    if "_env" in vars(env):
        vars(copy)["_env"] = _endless(env._env)
    return copy
