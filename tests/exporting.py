"""Exported teams with random weights: shared by the tests of export and of loading."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import TINY

from qmix_jax.build import from_mapping, make_env
from qmix_jax.run.export import export_team
from qmix_jax.run.trained import TrainedRun

TEAMS = {
    "smax": ({"name": "smax", "map": "3m"}, {}),
    "spread": (
        {"name": "mpe", "task": "simple_spread"},
        {"share_parameters": False, "layer_norm": True, "use_last_action": False},
    ),
    "speaker": ({"name": "mpe", "task": "simple_speaker_listener"}, {"layer_norm": True, "use_agent_id": False}),
}


def made(env, agent):
    """A team with random weights, none of them near zero, so that whatever is left out or mixed up shows."""
    settings = {**TINY, "env": env, "agent": {"hidden_size": 8, **agent}}
    config = from_mapping(settings)
    run = TrainedRun(config, make_env(config.env), {})
    params = run.agents.init(jax.random.key(6))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    shaken = [leaf + 0.5 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    params = {"agent": jax.tree.unflatten(structure, shaken)}
    params["agent"]["obs"] *= 3  # what is seen decides
    return TrainedRun(config, run.env, jax.tree.map(lambda leaf: leaf[None], params))


@pytest.fixture(scope="session")
def teams(tmp_path_factory):
    """Every team of TEAMS, exported: name -> (run, folder)."""
    place = tmp_path_factory.mktemp("teams")
    runs = {name: made(*TEAMS[name]) for name in TEAMS}
    for name, run in runs.items():
        export_team(run, place / name, seed=0, provenance={})
    return {name: (run, place / name) for name, run in runs.items()}


@pytest.fixture
def team(teams, tmp_path):
    """A copy of the speaker and listener that may be damaged."""
    return Path(shutil.copytree(teams["speaker"][1], tmp_path / "team"))


OBS, LEGAL = np.linspace(-1, 1, 11), [True] * 5
"""An input of the listener."""
