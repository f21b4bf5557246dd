"""What each agent of a trained team does in greedy episodes, and how much the team's value depends on it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from qmix_jax.agents.base import Agents
from qmix_jax.envs.base import TeamEnv
from qmix_jax.learning.evaluate import AgentSums, episode_keys, watch
from qmix_jax.learning.robustness import BATCH, plan
from qmix_jax.settings import ConfigError
from qmix_jax.types import Behaviour, Params


def observe(
    env: TeamEnv, agents: Agents, mixer: nn.Module, teams: list[tuple[Params, jax.Array]], episodes: int
) -> Behaviour:
    """What the agents of each seed's team do in exactly `episodes`; a team is its parameters and its episodes' key.

    The episodes are those that `robustness.ParallelEvaluator` plays with the key, over all devices, in batches of which
    only sums are kept.

    Raises:
        ConfigError: the mixer's parameters do not fit the environment.
    """
    program = _program(env, agents, mixer)
    sums = [_sums(program, params, key, episodes) for params, key in teams]
    steps = np.stack([each.steps for each in sums])
    credits = [each.credit for each in sums if each.credit is not None]
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN, as documented
        return Behaviour(
            steps=steps,
            q=np.stack([each.q for each in sums]) / steps,
            credit=np.stack(credits) / steps if credits else None,
            actions=np.stack([each.actions for each in sums]) / steps[..., None],
        )


def _program(env: TeamEnv, agents: Agents, mixer: nn.Module):
    """`params, keys, counted -> AgentSums`, every leaf with a leading axis of devices."""

    def on_device(params, keys, counted):
        return jax.tree.map(lambda leaf: leaf[None], watch(env, agents, mixer, params, keys, counted))

    mesh = Mesh(np.array(jax.devices()), ("data",))
    share = P("data")
    return jax.jit(jax.shard_map(on_device, mesh=mesh, in_specs=(P(), share, share), out_specs=share, check_vma=False))


def _sums(program, params: Params, key: jax.Array, episodes: int) -> AgentSums:
    """The sums over so many episodes, in float64."""
    batches, size = plan(episodes, jax.device_count(), BATCH)
    total = None
    for start in range(0, batches * size, size):
        counted = start + jnp.arange(size) < episodes
        try:
            sums = jax.device_get(program(params, episode_keys(key, size, start), counted))
        except ScopeParamShapeError as error:
            raise ConfigError(f"the mixer does not fit this environment: {' '.join(str(error).split())}") from error
        batch = jax.tree.map(lambda leaf: leaf.sum(0, dtype=np.float64), sums)
        total = batch if total is None else jax.tree.map(np.add, total, batch)
    return total  # pyright: ignore[reportReturnType]  (there is a batch)
