"""Q_tot of every joint action, from the parameters of a run."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qmix_jax.build import make_mixer
from qmix_jax.envs.wrappers.joint import JointTeam
from qmix_jax.mixers.base import pick
from qmix_jax.run.trained import TrainedRun
from qmix_jax.types import AgentInput, MixerInput, Observation, global_state

Path = Sequence[tuple[int, ...]]
"""Joint actions from the start of an episode."""


def q_tables(run: TrainedRun, paths: Sequence[Path]) -> list[np.ndarray]:
    """The mean over seeds of Q_tot of every joint action, one axis an agent, in the state at the end of each path."""
    seeds = range(run.config.num_seeds)
    params = [jax.tree.map(jnp.asarray, run.params(seed)) for seed in seeds]
    return [np.mean([q_table(run, each, path) for each in params], axis=0) for path in paths]


def q_table(run: TrainedRun, params: Any, path: Path) -> np.ndarray:
    """One seed's table, in units of the game's reward."""
    spec = run.env.spec
    key = jax.random.key(0)  # these games are deterministic
    env_state, observation = run.env.reset(key)
    hidden = run.agents.initial_state(1)
    last_action, first = jnp.full((1, spec.num_agents), spec.num_actions), jnp.ones(1, bool)
    for actions in path:
        action = (run.env.number(actions),) if isinstance(run.env, JointTeam) else actions
        hidden = _step(run, params, hidden, observation, last_action, first)[0]
        env_state, observation, _ = run.env.step(key, env_state, jnp.array(action))
        last_action, first = jnp.array([action]), jnp.zeros(1, bool)
    output = _step(run, params, hidden, observation, last_action, first)[1]
    table = _mix(run, params, output.features[0], output.q[0], observation) / run.config.learner.reward_scale
    return table.reshape(run.env.sizes) if isinstance(run.env, JointTeam) else table


def _step(run: TrainedRun, params: Any, hidden: Array, observation: Observation, last_action: Array, first: Array):
    inputs = AgentInput(observation.agents[None], last_action, first)
    return run.agents.step(params["agent"], hidden, inputs)


def _mix(
    run: TrainedRun, params: Any, hidden: Float[Array, "N H"], q: Float[Array, "N A"], observation: Observation
) -> np.ndarray:
    """Q_tot of each joint action, from every agent's recurrent state and values."""
    counts = tuple(observation.available.sum(axis=-1).tolist())
    action = jnp.array(list(np.ndindex(*counts)))

    def repeated(values: Array) -> Array:
        return jnp.broadcast_to(values, (len(action), *values.shape))

    legal = jnp.where(observation.available, q, -jnp.inf)
    joint = MixerInput(
        chosen_q=pick(repeated(q), action),
        greedy_q=repeated(legal.max(axis=-1)),
        action=jax.nn.one_hot(action, run.env.spec.num_actions),
        is_greedy=action == legal.argmax(axis=-1),
        hidden=repeated(hidden),
        state=repeated(global_state(observation)),
    )
    q_tot = make_mixer(run.config.algorithm, run.env).apply(params["mixer"], joint)
    return np.asarray(q_tot)[:, 0].reshape(counts)
