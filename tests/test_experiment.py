"""A run from end to end: the files that it leaves, and how it ends when something goes wrong."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import TINY, merge, tiny
from pictures import near, pixels

from qmix_jax.build import from_mapping
from qmix_jax.config import to_mapping
from qmix_jax.film.canvas import GOLD, SIZE
from qmix_jax.learning.evaluate import evaluate
from qmix_jax.records import read_metrics
from qmix_jax.reporters.metrics_file import MetricsFile
from qmix_jax.run import exits, experiment
from qmix_jax.run.checkpoint import checkpoints
from qmix_jax.run.metrics import SUMS
from qmix_jax.run.program import Program
from qmix_jax.run.trained import load_run
from qmix_jax.settings import ConfigError

PER_SEED = [
    *(f"train/{name}" for name in ("loss", "td_error", "q_mean", "target_mean", "grad_norm", "replay_fill", "updates")),
    *(f"{when}/{name}" for when in ("train", "eval") for name in ("return", "episode_length", "win_rate")),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "folder"
    settings = merge(TINY, {"num_seeds": 2, "devices": 1})
    config = from_mapping(settings)
    return config, folder, experiment.train(config, folder, settings).status


def test_a_run_leaves_everything_in_its_folder(finished):
    _, folder, status = finished
    assert status == 0
    left = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "run.json", "metrics.jsonl", "curve.png", "policy.gif", "checkpoints"} <= left
    manifest = json.loads((folder / "run.json").read_text())
    assert manifest["versions"]["jax"] == jax.__version__ and manifest["devices"]


def test_each_evaluation_is_one_line_with_every_seed(finished):
    config, folder, _ = finished
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["env_steps"] for row in rows] == [64, 128, 192]
    for row in rows:
        assert {"wall_seconds", "compile_seconds", "train/epsilon", "train/learning_rate"} <= set(row)
        assert all(len(row[name]) == config.num_seeds for name in PER_SEED)
    assert rows[-1]["wall_seconds"] > rows[0]["wall_seconds"] > rows[0]["compile_seconds"] > 0
    assert [row["train/replay_fill"][0] for row in rows] == [0.5, 1.0, 1.0]
    # the last joint step before row 1 is taken at environment step 60 of a decay over 100 from 1 to 0.1
    assert rows[0]["train/epsilon"] == pytest.approx(1 - 0.9 * 0.60)


def test_the_saved_parameters_are_the_trained_ones(finished):
    config, folder, _ = finished
    program = experiment.check(config)
    params = load_run(folder).all_params
    state = program.init()
    chunk = program.compile_chunk()
    for _ in range(config.num_chunks):
        state, _ = chunk(state, program.numbers)
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(state.seeds.learner.params))


def test_a_finished_run_can_be_used_again(finished):
    config, folder, _ = finished
    run = load_run(folder)
    assert run.config == config
    play = jax.jit(lambda params: evaluate(run.env, run.agents, params, jax.random.key(0), 8))
    assert float(play(run.params(seed=1)["agent"]).episodes) == 8
    with pytest.raises(ConfigError, match="no run's folder"):
        load_run(folder.parent)
    with pytest.raises(ConfigError, match="seed=2, but the run has 2"):
        run.params(seed=2)


@pytest.mark.parametrize("actions", [(0, 4), (-1,)])
def test_a_team_explores_by_actions_of_the_environment(actions):
    with pytest.raises(ConfigError, match=r"exploration.team_actions=.* actions of probe, whose numbers are 0 to 3$"):
        experiment.check(tiny(exploration={"team_actions": actions}))


def test_whole_episodes_need_whole_rollouts():
    with pytest.raises(ConfigError, match=r"set rollout\.num_steps=5"):
        experiment.check(tiny(rollout={"whole_episodes": True, "num_steps": 4}))


def test_the_same_run_gives_the_same_numbers(finished, tmp_path):
    config, folder, _ = finished
    experiment.train(config, tmp_path / "again", {})
    timing = {*SUMS, "train/steps_per_second"}
    ours, theirs = (
        [{k: v for k, v in row.items() if k not in timing} for row in read_metrics(place / "metrics.jsonl")]
        for place in (folder, tmp_path / "again")
    )
    assert ours == theirs


def test_nan_stops_the_run_says_what_to_look_at_and_keeps_the_parameters(tmp_path, capsys):
    config = tiny(devices=1, learner={"learning_rate": 1e30}, logging={"display": "plain"})
    assert experiment.train(config, tmp_path, {}).status == exits.FAILED
    said = capsys.readouterr().out
    assert "NaN between steps" in said and "learner.learning_rate" in said
    assert "observations and rewards in replay are finite, so the learner diverged" in said
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert rows and None in rows[-1]["train/loss"] and rows[-1]["train/environment_nan_at"] == [None]


def change_chunks(monkeypatch, change) -> None:
    """What the chunk of this number, counted from 1, returns becomes change(number, state, metrics)."""
    compiled = Program.compile_chunk

    def compile_chunk(self):
        chunk, numbers = compiled(self), itertools.count(1)
        return lambda *arguments: change(next(numbers), *chunk(*arguments))

    monkeypatch.setattr(Program, "compile_chunk", compile_chunk)


def test_nan_keeps_the_parameters_from_before(tmp_path, monkeypatch):
    """The losses of the second chunk are made NaN: what the first one learnt is saved."""

    def spoil_losses(number, state, metrics):
        losses = jax.tree.map(lambda x: x * np.nan, metrics.losses)
        return state, metrics._replace(losses=losses) if number == 2 else metrics

    change_chunks(monkeypatch, spoil_losses)
    assert experiment.train(tiny(devices=1), tmp_path, {}).status == exits.FAILED
    (checkpoint,) = checkpoints(tmp_path)
    assert checkpoint.env_steps == 64 and not checkpoint.is_whole_state
    params = checkpoint.read("params")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def spoil(monkeypatch, broken_after: dict[int, int]) -> None:
    """The parameters of seeds (by index) become NaN once so many chunks are trained."""

    def spoil_parameters(number, state, metrics):
        broken = np.array([i for i, chunks in broken_after.items() if chunks == number], int)
        params = jax.tree.map(lambda leaf: leaf.at[broken].set(np.nan), state.seeds.learner.params)
        learner = state.seeds.learner._replace(params=params)
        return state._replace(seeds=state.seeds._replace(learner=learner)), metrics

    change_chunks(monkeypatch, spoil_parameters)


@pytest.mark.slow
def test_a_seed_that_meets_nan_stops_no_other(finished, tmp_path, monkeypatch, capsys):
    """Seed 0 meets NaN behind the second of three chunks; seed 1 is trained as in the run where nothing happens."""
    config, healthy, _ = finished
    spoil(monkeypatch, {0: 2})
    plain = dataclasses.replace(config, logging=dataclasses.replace(config.logging, display="plain"))
    assert experiment.train(plain, tmp_path, to_mapping(plain)).status == exits.FAILED
    said = capsys.readouterr().out
    assert "the loss of seed 0 became NaN between steps 64 and 128" in said and "1 other seed continues" in said
    assert "Done, except seeds that met NaN: QMIX on probe, 192 environment steps x 2 seeds" in said
    rows, reference = read_metrics(tmp_path / "metrics.jsonl"), read_metrics(healthy / "metrics.jsonl")
    assert [row.get("train/frozen_since") for row in rows] == [None, [128, None], [128, None]]
    for name in PER_SEED:
        assert [row[name][1] for row in rows] == [row[name][1] for row in reference]
        assert rows[2][name][0] is None and (rows[1][name][0] is None) == name.startswith("eval/")
    saved, whole = load_run(tmp_path), load_run(healthy)
    jax.tree.map(np.testing.assert_array_equal, saved.params(seed=1), whole.params(seed=1))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved.params(seed=0)))
    monkeypatch.undo()
    assert experiment.train(config, tmp_path, {}, resumes=True).status == exits.FAILED  # complete, and its status stays


@pytest.mark.slow
def test_a_run_whose_seeds_have_all_met_nan_is_not_trained_again(tmp_path, monkeypatch, capsys):
    config = tiny(num_seeds=2, devices=1, checkpoint={"every_env_steps": 64})
    spoil(monkeypatch, {0: 1, 1: 2})
    assert experiment.train(config, tmp_path, {}).status == exits.FAILED
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert rows[-1]["train/frozen_since"] == [64, 128] and len(rows) == 2
    capsys.readouterr()
    assert experiment.train(config, tmp_path, {}, resumes=True).status == exits.FAILED
    assert "has parameters only: it met NaN at step 128\n" in capsys.readouterr().err
    assert read_metrics(tmp_path / "metrics.jsonl") == rows


def test_ctrl_c_ends_after_the_chunk_with_everything_on_disk(tmp_path, monkeypatch):
    log = MetricsFile.on_evaluation

    def log_and_interrupt(self, row):
        log(self, row)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(MetricsFile, "on_evaluation", log_and_interrupt)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins by ignoring it
    assert experiment.train(tiny(devices=1), tmp_path, {}).status == exits.INTERRUPTED
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
    assert (tmp_path / "curve.png").exists() and (tmp_path / "checkpoints").is_dir()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_replay_too_large_is_refused_with_one_that_fits_before_a_folder_is_made(tmp_path):
    with pytest.raises(ConfigError, match=r"replay\.capacity=.* try replay\.capacity=\d+") as refused:
        experiment.train(tiny(replay={"capacity": 10**12}), tmp_path / "none", {})
    assert not (tmp_path / "none").exists() and "\n" not in str(refused.value)


@pytest.mark.slow
def test_the_command_line_from_end_to_end_with_dashboards(tmp_path):
    line = (
        "train env=two_step total_env_steps=256 evaluation.every_env_steps=128 num_seeds=2 devices=2 "
        "logging.wandb.mode=offline logging.wandb.per_seed=true logging.wandb.artifacts=true logging.tensorboard=true "
        "hydra.run.dir=out"
    )
    home = {"HOME": str(tmp_path), "WANDB_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "qmix_jax", *line.split()],
        cwd=tmp_path,
        env={**os.environ, **home},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Next:" in done.stdout and "256" in done.stdout
    out = tmp_path / "out"
    assert len(read_metrics(out / "metrics.jsonl")) == 2
    film = pixels(out / "policy.gif")
    assert film.shape == (SIZE, SIZE, 3) and near(film, GOLD) > 20, "the return is gold"
    assert (out / ".hydra" / "overrides.yaml").exists()
    assert len(list(out.glob("wandb/offline-run-*/*.wandb"))) == 2
    (curve,) = out.glob("wandb/offline-run-*/files/media/images/*.png")
    log = next(curve.parents[3].glob("*.wandb"))
    assert b"checkpoint-" in log.read_bytes() and b"eval/return" in log.read_bytes()
    assert {path.name for path in (out / "tensorboard").iterdir()} == {"mean", "low", "high", "seed_0", "seed_1"}
