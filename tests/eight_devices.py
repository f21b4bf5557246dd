"""What a process with eight simulated devices computes, for tests/test_mesh.py: `python eight_devices.py FILE`.

The settings are of the tests' tiny world, with eight environments.
"""

import pickle
import sys
from dataclasses import replace

import jax

jax.config.update("jax_num_cpu_devices", 8)

import numpy as np  # noqa: E402
from jax.sharding import Mesh  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

from qmix_jax.build import from_mapping, make_env  # noqa: E402
from qmix_jax.learning.trainer import Trainer  # noqa: E402
from qmix_jax.run import program as programs  # noqa: E402
from qmix_jax.run.devices import DATA  # noqa: E402
from qmix_jax.run.program import Program  # noqa: E402
from qmix_jax.types import swap_time_and_batch  # noqa: E402

SETTINGS = {
    "env": {"name": "probe", "episode_length": 5, "ends": "random", "starts_per_rollout": 8},
    "algorithm": {"name": "qmix", "embed_size": 4, "hypernet_size": 8},
    "agent": {"hidden_size": 8},
    "rollout": {"num_envs": 8, "num_steps": 8},
    "replay": {"capacity": 256},
    "learner": {"batch_size": 8, "env_steps_per_update": 32, "start_env_steps": 60, "learning_rate": 0.01},
    "target": {"every_env_steps": 96},
    "evaluation": {"every_env_steps": 128, "episodes": 8},
}
CHUNKS = 3


def shares(tree):
    """Of every leaf its shape, and each device's index into it with the values there."""
    return [
        (leaf.shape, [(shard.index, np.asarray(shard.data)) for shard in leaf.addressable_shards])
        for leaf in jax.tree.leaves(tree)
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    ]


def train(devices, num_seeds):
    """The program, its text, the state after some chunks and the metrics of each."""
    config = from_mapping(SETTINGS | {"devices": devices, "num_seeds": num_seeds})
    program = Program.make(config, make_env(config.env))
    state, chunk = program.init(), program.compile_chunk()
    metrics = []
    for _ in range(CHUNKS):
        state, of_chunk = chunk(state, program.numbers)
        metrics.append(jax.device_get(of_chunk))
    return program, chunk.as_text(), state, metrics


def split_update(program, state):
    """Two updates by the whole of a batch from replay, and by eight devices that have a sequence of it each."""
    trainer = Trainer(program.config, program.env)
    rows = jax.tree.map(lambda leaf: np.asarray(leaf[0, -8:]), state.seeds.replay)
    batch = trainer.format.decompress(swap_time_and_batch(rows))
    learner = jax.tree.map(lambda leaf: np.asarray(leaf[0]), state.seeds.learner)
    specs = jax.tree.map(lambda _: P(None, DATA), batch)._replace(hidden=P(DATA), last_action=P(DATA))
    shared = replace(trainer.learner, axis=DATA).update
    mesh = Mesh(np.array(jax.devices()), (DATA,))
    split = jax.shard_map(shared, mesh=mesh, in_specs=(P(), specs, P()), out_specs=P(), check_vma=False)
    return [_twice(jax.jit(update), learner, batch) for update in (trainer.learner.update, split)]


def _twice(update, learner, batch):
    learner, _ = update(learner, batch, 0)
    learner, metrics = update(learner, batch, 0)
    return jax.device_get((learner.params, metrics))


def main(path):
    """Everything, into a file."""
    programs.FEW_ACTIVATIONS = 0  # one device scans over its seeds
    _, _, alone, alone_metrics = train(1, 8)
    _, seeds_text, over_seeds, over_seeds_metrics = train(8, 8)
    program, text, both, metrics = train(8, 2)
    facts = {
        "alone": (shares(alone), alone_metrics),
        "over seeds": (shares(over_seeds), over_seeds_metrics, seeds_text),
        "over both": (shares(both.seeds.learner), shares((both.seeds.rollout, both.seeds.replay))),
        "parameters": sum(leaf[0].size for leaf in jax.tree.leaves(both.seeds.learner.params)),
        "environments": np.asarray(both.seeds.rollout.observation.agents[:, :, 0, 0]),
        "text": text,
        "metrics": metrics,
        "updates": split_update(program, both),
    }
    with open(path, "wb") as file:
        pickle.dump(facts, file)


if __name__ == "__main__":
    main(sys.argv[1])
