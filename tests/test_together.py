"""Settings that are only numbers: one program serves all their values, and trains runs that differ in them together."""

import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import QUICK_COMPILE, WITHOUT_FUSION, merge
from jax.interpreters.partial_eval import dce_jaxpr
from resuming import LONG, assert_same_end, compiled_once_each, executables, numbers, stopped_after, train

from qmix_jax.build import from_mapping, make_env, make_team, mixers
from qmix_jax.envs import ENVIRONMENTS
from qmix_jax.envs.predator_prey import CAPTURE
from qmix_jax.envs.probe import Probe, ProbeConfig
from qmix_jax.learning.trainer import Trainer
from qmix_jax.records import read_metrics
from qmix_jax.run import exits, together
from qmix_jax.run import program as parallel
from qmix_jax.run.checkpoint import checkpoints
from qmix_jax.run.experiment import Order, train_many
from qmix_jax.run.program import Program
from qmix_jax.run.resume import ResumePoint
from qmix_jax.run.trained import load_run
from qmix_jax.settings import NotNegative, Traced, traced_numbers
from qmix_jax.traced import numbers as all_numbers
from qmix_jax.traced import settings as traced_settings
from qmix_jax.traced import with_numbers


@pytest.fixture(scope="module", autouse=True)
def fused():
    """As where users train: without fusion, which other tests do not need, XLA's last bits depend on a loop around."""
    fused = {"xla_cpu_use_fusion_emitters": True} if WITHOUT_FUSION in QUICK_COMPILE else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "FOR_CPU_CORES", {**parallel.FOR_CPU_CORES, **fused})
        yield


class Bonus(Probe):
    """The probe world with a number: what every step's reward is more; infinity where it is 1000."""

    def __init__(self, episode_length: int = 5, ends: str = "random", bonus: Traced[NotNegative] = 0.5):
        super().__init__(ProbeConfig(episode_length=episode_length, ends=ends))  # pyright: ignore
        self.episode_length, self.ends, self.bonus = episode_length, ends, bonus

    def step(self, key, state, action):
        state, observation, outcome = super().step(key, state, action)
        reward = outcome.reward + jnp.where(self.bonus == 1000, jnp.inf, self.bonus)
        return state, observation, outcome._replace(reward=reward)


SETTINGS = {
    **merge(LONG, {"env": {"name": f"{__name__}:Bonus"}, "target": {"mode": "soft"}, "learner": {"max_grad_norm": 1}}),
    "algorithm": {"name": "qtran", "embed_size": 4},
}
OTHER = {
    "exploration.start": 0.5,
    "exploration.finish": 0.6,
    "exploration.decay_env_steps": 20,
    "learner.gamma": 0.5,
    "learner.td_lambda": 0.2,
    "learner.learning_rate": 0.03,
    "learner.final_learning_rate_share": 0.9,
    "learner.adam_epsilon": 0.01,
    "learner.max_grad_norm": 0.1,
    "learner.reward_scale": 2.0,
    "target.tau": 0.5,
    "algorithm.opt_loss": 3.0,
    "algorithm.nopt_loss": 2.0,
    "env.bonus": 1.5,
}
"""Another value of every number."""


def nested(values: dict) -> dict:
    """{"learner.gamma": 1} -> {"learner": {"gamma": 1}}"""
    found: dict = {}
    for name, value in values.items():
        group, _, setting = name.partition(".")
        found.setdefault(group, {})[setting] = value
    return found


def config(**changes):
    return from_mapping(merge(SETTINGS, changes))


def make(**changes) -> Program:
    made = config(**changes)
    return Program.make(made, make_env(made.env))


# --- one program for all numbers ---------------------------------------------------------------------------------


def text(program: Program) -> str:
    """What XLA gets."""
    return jax.jit(program.chunk, donate_argnums=0).lower(program.shapes, program.numbers).as_text()


@pytest.fixture(scope="module", autouse=True)
def shared():
    """Runs take turns on a device, and runs alone share a program."""
    with pytest.MonkeyPatch.context() as patch, compiled_once_each():
        patch.setattr(parallel, "FEW_ACTIVATIONS", 0)
        yield


@pytest.fixture(scope="module")
def trained():
    """`(program) -> losses (8,) and final parameters` of one seed, with one compiled program for all numbers."""
    init, chunk = executables(make())

    def run(program: Program):
        state, losses = init(program._seeds, program.numbers), []
        for _ in range(8):
            state, metrics = chunk(state, program.numbers)
            losses.append(metrics.losses.loss[0])
        return np.array(losses), jax.device_get(state.seeds.learner.params)

    return run


@pytest.mark.slow
def test_every_number_has_its_effect(trained):
    assert set(OTHER) == set(traced_settings(config()))
    losses, _ = trained(make())
    assert len(losses) == 8 and losses[-1] > 0
    for name, value in OTHER.items():
        assert not np.array_equal(trained(make(**nested({name: value})))[0], losses), f"{name} is without effect"


def test_each_number_takes_the_place_of_its_own_setting():
    changed = config(**nested(OTHER))
    made = with_numbers(config(), all_numbers(changed))
    assert (made.learner, made.exploration, made.target) == (changed.learner, changed.exploration, changed.target)
    assert made.algorithm == changed.algorithm
    assert made.learner.learning_rate_change == pytest.approx(0.9 * 0.03 - 0.03)
    assert made.exploration.change == pytest.approx(0.6 - 0.5) and made.target.kept == 1 - 0.5


def test_the_program_is_the_same_for_all_numbers_so_that_it_is_compiled_once():
    assert text(make()) == text(make(seed=7, **nested(OTHER)))


@pytest.mark.parametrize(
    ("end", "change"), [("share", 0.1 * 0.01 - 0.01), (0.004, 0.004 - 0.01), (None, 0.0)], ids=["share", "rate", "none"]
)
def test_the_end_of_the_learning_rate_is_computed_in_double_precision(end, change):
    program = make(learner={"final_learning_rate": end})
    assert program.numbers["learner.learning_rate_change"].tolist() == [np.float32(change)]


def test_a_value_that_is_no_number_stays_a_part_of_the_program():
    ends = ["share", None, 0.004, 0.002]
    configs = [config(learner={"final_learning_rate": end}) for end in ends]
    assert together.groups(configs) == [[0], [1], [2, 3]]


def test_runs_train_together_that_differ_in_numbers_seed_and_what_they_write():
    configs = [
        config(),
        config(learner={"batch_size": 4}),
        config(seed=3, logging={"display": "plain"}, checkpoint={"keep_last": 5}, **nested(OTHER)),
        config(num_seeds=2),
    ]
    assert together.groups(configs) == [[0, 2], [1], [3]]


# --- every number of this package --------------------------------------------------------------------------------


def is_used(function, number: float) -> bool:
    """Whether a result depends on the number."""
    program = jax.make_jaxpr(function)(number)
    return dce_jaxpr(program.jaxpr, [True] * len(program.out_avals), instantiate=False)[1] == [True]


ATTENTION = ("attention_penalty",)
PENALTIES = {"qtran": ("opt_loss", "nopt_loss"), "qplex_qatten": ATTENTION, "qatten": ATTENTION}
WEIGHTS = {"ow_qmix": ("alpha",), "cw_qmix": ("alpha",)}
OF_ENVIRONMENTS = {"predator_prey": ("punishment",), "penalty": ("k",)}


def test_mixers_and_environments_declare_their_numbers():
    own = {name: tuple(traced_numbers(cls, vars(cls()))) for name, cls in mixers().items()}
    assert {name: fields for name, fields in own.items() if fields} == PENALTIES | WEIGHTS
    envs = {name: each.settings for name, each in ENVIRONMENTS.items()}
    found = {name: tuple(traced_numbers(cls, Defaults(cls))) for name, cls in envs.items()}
    assert {name: fields for name, fields in found.items() if fields} == OF_ENVIRONMENTS


class Defaults(dict):
    """The defaults of a dataclass by name."""

    def __init__(self, cls):
        super().__init__({name: getattr(cls, name, None) for name in cls.__dataclass_fields__})


@pytest.mark.parametrize("name", [*PENALTIES, *WEIGHTS])
def test_a_mixer_uses_its_numbers(name):
    made = from_mapping({"env": {"name": "two_step"}, "algorithm": {"name": name}})
    ones = jnp.ones((3, 1))
    trainer = Trainer(made, make_env(made.env))
    joint = trainer.learner._zero_input(trainer.agents.init(jax.random.key(0)))

    def result(field, number):
        mixer = Trainer(with_numbers(made, {f"algorithm.{field}": number}), trainer.env).learner.mixer
        if name in WEIGHTS:
            return mixer.importance(ones, 2 * ones, ones, ones > 1)
        params = mixer.init(jax.random.key(0), joint)
        return mixer.apply(params, joint, joint, method="penalty")

    for field in (PENALTIES | WEIGHTS)[name]:
        assert is_used(partial(result, field), 0.5)


@pytest.mark.parametrize(("name", "setting"), [(name, fields[0]) for name, fields in OF_ENVIRONMENTS.items()])
@pytest.mark.parametrize("algorithm", ["vdn", "joint"])
def test_an_environment_uses_its_numbers_within_wrappers_too(name, setting, algorithm):
    if (name, algorithm) == ("predator_prey", "joint"):
        pytest.skip("eight agents have too many joint actions")
    made = from_mapping({"env": {"name": name}, "algorithm": {"name": algorithm}})
    trainer = Trainer(made, make_team(made))

    def reward(number):
        env = trainer.with_numbers({f"env.{setting}": number}).env
        key = jax.random.key(0)
        return env.step(key, env.reset(key)[0], jnp.full(env.spec.num_agents, CAPTURE % env.spec.num_actions))[2].reward

    assert is_used(reward, -1.0)


# --- runs together -----------------------------------------------------------------------------------------------

RUNS = {
    "base": {},
    "other": nested(OTHER) | {"seed": 3},
    "third": {"learner": {"learning_rate": 0.02}, "env": {"bonus": 2.0}, "checkpoint": {"keep_best": 0}},
}
DIVERGES, BREAKS = {"learner": {"learning_rate": 1e30}}, {"env": {"bonus": 1000.0}}


def train_together(folder, runs: dict, stop_after: int | None = None, resumes: bool = False) -> list[int]:
    """The exit statuses of runs, each in a folder of its name, in turn on one device."""
    orders = [
        Order(from_mapping(settings), folder / name, settings)
        for name, settings in ((name, merge(SETTINGS, changes)) for name, changes in runs.items())
    ]
    with stopped_after(stop_after):
        return [each.status for each in train_many(orders, resumes)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder that has a folder for each of `RUNS`, trained alone; not to be changed."""
    folder = tmp_path_factory.mktemp("alone")
    for name, changes in RUNS.items():
        assert train(folder / name, merge(SETTINGS, changes)) == exits.DONE
    return folder


@pytest.mark.slow
def test_runs_in_turn_equal_those_alone_to_the_last_bit_also_stopped_and_resumed_alone_or_together(alone, tmp_path):
    runs, one = tmp_path / "runs", tmp_path / "one"
    assert train_together(runs, RUNS, stop_after=5) == [exits.TERMINATED] * 3
    assert all(checkpoints(runs / name)[-1].env_steps == 160 for name in RUNS)
    shutil.copytree(runs / "other", one)
    assert train(one, merge(SETTINGS, RUNS["other"])) == exits.DONE
    assert_same_end(one, alone / "other")
    assert train_together(runs, RUNS, resumes=True) == [exits.DONE] * 3
    for name, changes in RUNS.items():
        assert_same_end(runs / name, alone / name)
        assert load_run(runs / name).config == config(**changes)


@pytest.mark.slow
def test_a_signal_after_the_last_chunk_of_a_program_stops_the_runs_of_the_next(tmp_path):
    runs = {"base": RUNS["base"], "wider": {"agent": {"hidden_size": 16}}}
    assert train_together(tmp_path, runs, stop_after=8) == [exits.DONE, exits.TERMINATED]
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.slow
def test_runs_at_different_steps_resume_in_programs_of_their_own(alone, tmp_path):
    runs = {name: RUNS[name] for name in ("base", "third")}
    assert train(tmp_path / "base", merge(SETTINGS, RUNS["base"]), stop_after=5) == exits.TERMINATED
    assert train_together(tmp_path, runs, resumes=True) == [exits.DONE] * 2
    for name in runs:
        assert_same_end(tmp_path / name, alone / name)


@pytest.mark.slow
def test_a_run_that_meets_nan_stops_no_other_and_each_has_its_own_source(alone, tmp_path, capsys):
    runs = {"diverges": DIVERGES, "base": RUNS["base"], "breaks": BREAKS}
    assert train_together(tmp_path, runs) == [exits.FAILED, exits.DONE, exits.FAILED]
    assert_same_end(tmp_path / "base", alone / "base")
    rows = {name: read_metrics(tmp_path / name / "metrics.jsonl") for name in runs}
    assert rows["diverges"][-1]["train/environment_nan_at"] == [None]
    assert rows["breaks"][-1]["train/environment_nan_at"][0] is not None
    for name in ("diverges", "breaks"):
        assert rows[name][-1]["train/frozen_since"] == [rows[name][-1]["env_steps"]]
        params = checkpoints(tmp_path / name)[-1].params
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


@pytest.mark.slow
def test_seeds_vmapped_over_two_devices_equal_runs_alone_to_rounding(alone):
    names = [*RUNS, "base"]
    configs = [config(devices=2, **RUNS[name]) for name in names]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "FEW_ACTIVATIONS", 10**9)
        program = Program.of_runs(configs, make().env)
        assert dict(program.mesh.shape) == {"seed": 2, "data": 1} and program.vmaps_seeds
        state, chunk = program.start(program.init)
        for _ in range(8):
            state, metrics = chunk(state, program.numbers)
    for i, name in enumerate(names):
        last = numbers(alone / name)[-1]
        for field in ("loss", "q_mean", "target_mean", "grad_norm"):
            ours = float(getattr(metrics.losses, field)[i] / metrics.updates[i])
            np.testing.assert_allclose(ours, last[f"train/{field}"][0], rtol=1e-3)


def test_runs_that_do_not_fit_into_memory_together_train_in_parts(monkeypatch):
    alone = make()

    class Waiting:
        def __init__(self):
            self.program, self.config, self.is_complete, self.point = alone, alone.config, False, ResumePoint()

    runs = [Waiting() for _ in range(5)]
    monkeypatch.setattr(together, "fits", lambda program: len(program.runs) <= 2)
    assert [numbers for _, numbers in together.batches(runs)] == [[0, 1], [2, 3], [4]]
