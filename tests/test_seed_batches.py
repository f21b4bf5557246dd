"""Seeds that do not fit into memory at once: batches of them, which make the run that all at once would make."""

import jax
import numpy as np
import pytest
from conftest import merge
from resuming import LONG, compiled_once_each, numbers, train

from qmix_jax.run import exits
from qmix_jax.run import program as parallel
from qmix_jax.run.trained import load_run

SETTINGS = merge(LONG, {"num_seeds": 5, "total_env_steps": 128})


@pytest.fixture(scope="module", autouse=True)
def in_turn():
    """A device trains one seed after the other, so that all bits are equal."""
    with pytest.MonkeyPatch.context() as patch, compiled_once_each():
        patch.setattr(parallel, "FEW_ACTIVATIONS", 0)
        yield


@pytest.fixture(scope="module")
def at_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("at_once") / "run"
    assert train(folder, SETTINGS) == exits.DONE
    return folder


def test_x(at_once, tmp_path, capsys):
    assert train(tmp_path / "run", SETTINGS, num_seeds_at_once=2, logging={"display": "plain"}) == exits.DONE
    print(capsys.readouterr())
    assert numbers(tmp_path / "run") == numbers(at_once)
    a, b = load_run(at_once), load_run(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, a.all_params, b.all_params)
    assert 0
