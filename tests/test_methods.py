"""Every method of the registry, trained in the probe world: it learns the returns, and a checkpoint restores it."""

from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from conftest import TINY, merge
from omegaconf import OmegaConf

from qmix_jax.build import from_mapping, make_team
from qmix_jax.mixers import MIXERS
from qmix_jax.run.checkpoint import find, write
from qmix_jax.run.program import Program, TrainState
from qmix_jax.run.snapshot import Snapshot, state_to_host
from qmix_jax.run.trained import load_run

pytestmark = pytest.mark.slow
LENGTH, GAMMA, SCALE = 5, 0.9, 0.1
SETTINGS = merge(
    TINY,
    {
        "devices": 1,
        "total_env_steps": 6_000,
        "env": {"episode_length": LENGTH, "ends": "terminated", "starts_per_rollout": 2},
        "agent": {"hidden_size": 16},
        "rollout": {"num_envs": 8, "num_steps": 2 * LENGTH},
        "replay": {"capacity": 4_000},
        "exploration": {"finish": 1.0},
        "learner": {
            "batch_size": 16,
            "env_steps_per_update": 40,
            "learning_rate": 0.02,
            "gamma": GAMMA,
            "reward_scale": SCALE,
        },
        "target": {"every_env_steps": 400},
        "evaluation": {"every_env_steps": 400, "episodes": 4},
    },
)
"""About 150 updates."""
AGENTS = {
    "transfqmix": {"agent": {"name": "transformer", "num_layers": 1}, "algorithm": {"embed_size": 16, "num_layers": 1}}
}
"""Whose agents belong to the method."""


class Trained(NamedTuple):
    """A method at the end of its training, and what made it."""

    settings: dict
    program: Program
    chunk: Any
    items: dict
    """The whole state on the host, by the items of a checkpoint."""
    about: dict

    def restored(self, tmp_path) -> TrainState:
        """The state, through a checkpoint's files."""
        (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(self.settings)))
        write(tmp_path, Snapshot(6_000, self.items, "", self.about))
        return self.program.place(find(tmp_path).restore(self.program))


@pytest.fixture(scope="module", params=MIXERS)
def trained(request):
    settings = merge(SETTINGS | {"algorithm": {"name": request.param}}, AGENTS.get(request.param, {}))
    config = from_mapping(settings)
    program = Program.make(config, make_team(config), jax.devices()[:1])
    state, chunk = program.start(program.init)
    for _ in range(config.num_chunks):
        state, _ = chunk(state, program.numbers)
    return Trained(settings, program, chunk, state_to_host(state, with_replay=True), {"data_devices": 1})


def returns():
    """The discounted, scaled return from each time on: the reward of step t is t + 1, whatever is done."""
    return SCALE * np.array([sum(GAMMA ** (k - t) * (k + 1) for k in range(t, LENGTH)) for t in range(LENGTH)])


def test_it_learns_the_returns_of_the_probe_world(trained):
    program = trained.program
    params = jax.tree.map(lambda leaf: leaf[0], trained.items["params"])
    values = program.compile_record(params, 4)(params, jax.random.key(1)).values
    learnt = values.q if values.q_tot is None else values.q_tot[..., None]
    np.testing.assert_allclose(learnt, np.broadcast_to(returns()[:, None, None], learnt.shape), atol=0.2)


def test_a_checkpoint_gives_the_state_back_and_training_goes_on_as_if_nothing_had_happened(trained, tmp_path):
    state = trained.restored(tmp_path)
    assert jax.tree.all(jax.tree.map(np.array_equal, state_to_host(state, with_replay=True), trained.items))
    after = [jax.device_get(trained.chunk(s, trained.program.numbers)[1]) for s in (state, trained.restored(tmp_path))]
    assert jax.tree.all(jax.tree.map(np.array_equal, *after))
    held = load_run(tmp_path).all_params
    assert jax.tree.all(jax.tree.map(np.array_equal, held, trained.items["params"]))
