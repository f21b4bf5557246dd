"""The package from Python: settings, objects and callbacks in; rows, parameters and a folder out."""

import importlib
import sys
import threading

import jax
import jax.numpy as jnp
import jaxmarl
import numpy as np
import pytest
from conftest import TINY
from test_own_agents import LSTMAgents

import qmix_jax
from qmix_jax.build import make_env
from qmix_jax.config import by_name
from qmix_jax.envs.two_step import TwoStep, TwoStepConfig
from qmix_jax.mixers.qmix import QMIX
from qmix_jax.mixers.vdn import VDN
from qmix_jax.records import read_metrics
from qmix_jax.reporters.base import Callback
from qmix_jax.reporters.callbacks import Callbacks
from qmix_jax.run import program
from qmix_jax.run.checkpoint import find
from qmix_jax.run.experiment import check
from qmix_jax.run.program import ReusingProgram
from qmix_jax.settings import ConfigError
from qmix_jax.untrusted import read_settings

SETTINGS = {name: value for name, value in TINY.items() if name != "env"} | {"devices": 1}
PROBE = ("env=probe", *(f"env.{name}={value}" for name, value in TINY["env"].items() if name != "name"))
QUIET = ("logging.film=false",)


def train(*overrides, **arguments):
    """A tiny run of the probe world in no folder."""
    return qmix_jax.train(*PROBE, *QUIET, *overrides, **{"folder": None, **SETTINGS, **arguments})


class Game(TwoStep):
    """The two-step game, with a setting that changes nothing."""

    def __init__(self, length: int = 2):
        super().__init__(TwoStepConfig())
        self.length = length


class Fans(qmix_jax.Callback):
    """Notes what it is called with, and stops the run after `last` evaluations."""

    def __init__(self, last=99):
        self.calls, self.left = [], last

    def on_start(self, start):
        self.calls.append(("start", start.title, len(start.rows)))

    def on_evaluation(self, row):
        self.calls.append(("evaluation", row["env_steps"]))
        row["eval/return"].clear()  # its own copy
        row.clear()
        self.left -= 1
        return "stop" if self.left == 0 else None

    def on_checkpoint(self, path):
        self.calls.append(("checkpoint", path.name))

    def on_end(self, end):
        self.calls.append(("end", end.status))

    def close(self):
        self.calls.append(("close",))


class Fails(qmix_jax.Callback):
    """Raises in one method."""

    def __init__(self, method):
        setattr(self, method, self.fail)

    def fail(self, *arguments):
        raise KeyError("no floor")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run in a folder, with the callback that watched it."""
    fans = Fans()
    folder = tmp_path_factory.mktemp("api") / "run"
    return train(folder=folder, callbacks=[fans], num_seeds=2), fans


# --- what a run is good for --------------------------------------------------------------------------------------


def test_rows_are_those_of_the_file_and_a_line_of_the_table_is_an_evaluation_of_a_seed(run):
    run, _ = run
    assert run.rows == read_metrics(run.folder / "metrics.jsonl")
    assert [row["env_steps"] for row in run.rows] == [64, 128, 192]
    table = run.to_pandas()
    assert list(table["seed"]) == [0, 1] * 3 and list(table["env_steps"]) == [64, 64, 128, 128, 192, 192]
    assert list(table["eval/return"][:2]) == run.rows[0]["eval/return"]


def test_a_loaded_run_is_the_trained_one(run):
    run, _ = run
    loaded = qmix_jax.load_run(run.folder)
    assert loaded.rows == run.rows and loaded.config == run.config and loaded.env_steps == run.env_steps == 192
    jax.tree.map(np.testing.assert_array_equal, loaded.params(1), run.params(1))
    first, second = run.evaluate(16), loaded.evaluate(16)
    assert first == second == qmix_jax.evaluate(run.folder, 16)
    with pytest.raises(ConfigError, match="seed=2, but the run has 2"):
        run.params(2)


def test_a_film_is_shown_and_written(run, tmp_path):
    run, _ = run
    film = run.render(tmp_path / "film.gif")
    assert film.data[:6] == b"GIF89a" and film.path.read_bytes() == film.data
    assert film._repr_mimebundle_() == {"image/gif": film.data}
    assert qmix_jax.render(run).path is None


def test_a_team_is_exported(run, tmp_path):
    run, _ = run
    contract = qmix_jax.export(run, tmp_path / "team")
    assert len(contract["agents"]) == 2 and (tmp_path / "team" / "contract.json").is_file()


# --- callbacks ---------------------------------------------------------------------------------------------------


def test_a_callback_is_called_from_start_to_end(run):
    run, fans = run
    assert fans.calls[0][0] == "start" and fans.calls[-2:] == [("end", 0), ("close",)]
    assert [call for call in fans.calls if call[0] == "evaluation"] == [("evaluation", n) for n in (64, 128, 192)]
    assert ("checkpoint", "192") in fans.calls
    assert all(len(row) > 5 for row in run.rows)  # that one cleared its rows


def test_a_callback_stops_a_run_which_resumes_as_if_it_had_not(run, tmp_path):
    whole, _ = run
    fans = Fans(last=1)
    folder = tmp_path / "run"
    stopped = train(folder=folder, callbacks=[fans], num_seeds=2)
    assert stopped.env_steps == 64 and find(folder).env_steps == 64 and fans.calls[-2] == ("end", 0)
    resumed = train(folder=folder, resume=True, num_seeds=2)
    jax.tree.map(np.testing.assert_array_equal, resumed.params(1), whole.params(1))


@pytest.mark.parametrize("method", ["on_start", "on_evaluation", "on_checkpoint", "on_end", "close"])
def test_an_exception_in_a_callback_is_told_once_and_does_not_end_the_run(method, capsys, tmp_path):
    fans = Fans()
    assert train(callbacks=[Fails(method), fans], num_seeds=2, folder=tmp_path / "run").env_steps == 192
    lines = [line for line in capsys.readouterr().err.splitlines() if "Fails" in line]
    assert len(lines) == 1 and f"warning: Fails.{method} failed and is off for the rest" in lines[0]
    assert "KeyError: 'no floor', at " in lines[0] and fans.calls[-2] == ("end", 0)


def test_a_callback_that_exits_does_not_end_the_run_either(capsys):
    class Exits(Callback):
        def on_evaluation(self, row):
            sys.exit("enough")

    assert Callbacks([Exits()]).on_evaluation({}) is None
    assert (
        "Exits.on_evaluation failed and is off for the rest of this run: SystemExit: enough" in capsys.readouterr().err
    )


# --- many calls --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_equal_program_is_compiled_once_and_nothing_is_left_behind(monkeypatch, tmp_path):
    compiled = []
    compile_with = program.compile_with
    monkeypatch.setattr(program, "compile_with", lambda *args: compiled.append(1) or compile_with(*args))
    monkeypatch.chdir(tmp_path)
    threads = threading.active_count()
    settings = {name: value for name, value in SETTINGS.items() if name != "algorithm"}
    for seed, env in enumerate([Game, Game(), Game(), Game, Game(length=3)]):  # whose length changes no program
        qmix_jax.train(*QUIET, env=env, mixer=VDN, seed=seed, folder=None, **settings)
        assert len(compiled) == 1
    assert threading.active_count() == threads and not list(tmp_path.iterdir())


MODULE = """
from jax.numpy import array
from qmix_jax.envs.two_step import TwoStep, TwoStepConfig

class Pays(TwoStep):
    def __init__(self): super().__init__(TwoStepConfig())

    def step(self, key, state, action):
        state, observation, outcome = super().step(key, state, action)
        return state, observation, outcome._replace(reward=array({reward}))
"""


@pytest.mark.slow
def test_a_module_that_is_reloaded_is_trained_as_it_is_now(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    settings = {name: value for name, value in SETTINGS.items() if name != "algorithm"}
    for reward in (1.0, 10.0):
        (tmp_path / "pays.py").write_text(MODULE.format(reward=reward))
        importlib.reload(importlib.import_module("pays"))
        run = qmix_jax.train(*QUIET, "env=pays:Pays", mixer=VDN, folder=None, **settings)
        assert run.rows[-1]["eval/return"] == [2 * reward]


PAY = 1.0


class Changing(Game):
    """Its reward depends on a global and on an attribute that is no setting of its own class."""

    def __init__(self, extra: float = 0.0, **others):
        super().__init__(**others)
        self.extra = extra

    def step(self, key, state, action):
        state, observation, outcome = super().step(key, state, action)
        return state, observation, outcome._replace(reward=jnp.float32(PAY * self.length))


def test_somebody_elses_code_is_compiled_again_where_it_changed_and_only_there(monkeypatch):
    monkeypatch.setattr(program, "compile_with", lambda lowered, options: object())
    rollout = {"num_envs": 2, "num_steps": 4}
    settings = {**SETTINGS, "rollout": rollout}

    def compiled(env):
        checked = check(qmix_jax.compose(*QUIET, env=env, **settings))
        return ReusingProgram(checked.config, checked.env, checked.mesh).compile_chunk()

    changing = Changing()
    first = compiled(changing)
    assert compiled(changing) is first and compiled(Changing(extra=0.0)) is first
    assert compiled(Changing(length=3)) is not first, "an argument that is not among the class's own"
    changing.length = 5
    assert compiled(changing) is not first
    monkeypatch.setattr(sys.modules[__name__], "PAY", 2.0)
    assert compiled(Changing()) is not first


@pytest.mark.slow
def test_runs_in_threads_at_once_equal_those_alone(run):
    whole, _ = run
    results = {}

    def work(name):
        results[name] = train(num_seeds=2)

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in "ab":
        jax.tree.map(np.testing.assert_array_equal, results[name].params(0), whole.params(0))


# --- parts made in Python ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_network_made_in_python_is_given_again_to_load_its_run(tmp_path):
    class Local(LSTMAgents):
        pass

    folder = tmp_path / "run"
    settings = {name: value for name, value in SETTINGS.items() if name != "agent"}
    trained = qmix_jax.train(*PROBE, *QUIET, agents=Local, folder=folder, **settings)
    assert trained.config.agent.name == "test_api:Local (made in Python)"
    with pytest.raises(ConfigError, match=r"give it again: load_run\(folder, agents=\.\.\.\)"):
        qmix_jax.load_run(folder)
    loaded = qmix_jax.load_run(folder, agents=Local)
    jax.tree.map(np.testing.assert_array_equal, loaded.params(), trained.params())


@pytest.mark.slow
def test_the_settings_of_objects_are_written_as_they_are(tmp_path, capsys):
    class Narrow(LSTMAgents):
        def __init__(self, env, width: int = 3):
            super().__init__(env)
            self.width = width

    settings = {name: value for name, value in SETTINGS.items() if name not in ("agent", "algorithm")}
    game, folder = Game(length=3), tmp_path / "run"
    parts = {"env": game, "mixer": QMIX(embed_size=4, hypernet_size=3), "agents": Narrow(game, width=5)}
    trained = qmix_jax.train(*QUIET, **parts, folder=folder, **settings)
    written = read_settings(folder)
    assert written["env"] == {"name": "test_api:Game", "length": 3, "starts_per_rollout": None, "shield": None}
    assert (written["algorithm"]["embed_size"], written["algorithm"]["hypernet_size"]) == (4, 3)
    assert written["agent"] == {"name": "test_api:Narrow (made in Python)", "width": 5}
    assert by_name(qmix_jax.load_run(folder, agents=parts["agents"]).config) == by_name(trained.config)
    assert "was changed since" not in capsys.readouterr().err


MISTAKES = {
    "a sweep": ((("-m", "seed=1,2"), {}), "one call trains one run: leave out -m"),
    "several values": ((("seed=1,2",), {}), "seed=1,2 has several values"),
    "an unknown setting": (
        ((), {"totl_env_steps": 5}),
        "unknown setting 'totl_env_steps' (did you mean 'total_env_step",
    ),
    "an unknown nested setting": (((), {"learner": {"gama": 0.9}}), "did you mean 'learner.gamma'?"),
    "an object with settings": ((("algorithm.x=3",), {"mixer": VDN()}), "algorithm.x"),
    "two mixers": (
        (("algorithm=vdn",), {"mixer": QMIX}),
        "algorithm=vdn and mixer=QMIX both name the mixer; leave one",
    ),
    "two mixers by name": (((), {"mixer": QMIX(), "algorithm": "vdn"}), "algorithm=vdn and mixer=QMIX both name the"),
    "two environments": ((("env=matrix",), {}), "env=matrix and env=two_step both name the environment; leave one out"),
    "two networks": ((("agent=gru",), {"agents": LSTMAgents}), "agent=gru and agents=LSTMAgents both name the network"),
    "a network under the command line's name": (((), {"agent": LSTMAgents}), "is given as agents=LSTMAgents"),
    "a mixer under the command line's name": (((), {"algorithm": VDN()}), "is given as mixer=VDN"),
    "a list of settings": (((["seed=3"],), {}), "['seed=3'] is no setting: settings are words"),
    "settings in one word": ((("seed=3 devices=1",), {}), 'give each as its own argument, "seed=3", "devices=1"'),
    "an environment as settings": (((), {"env": {"name": "matrix"}}), "write env='matrix', and its settings as"),
    "an environment of JaxMARL": (((), {"env": jaxmarl.make("MPE_simple_v3")}), "give JaxMarlEnv(env) of qmix_jax.env"),
    "a class of nothing": (((), {"env": dict}), "env=dict is no subclass of qmix_jax.TeamEnv"),
    "a setting of an odd type": (((), {"seed": {3}}), "seed={3}: a setting cannot be of type set"),
    "a function as callback": (((), {"callbacks": [print]}), "in callbacks is no qmix_jax.Callback"),
    "a class as callback": (((), {"callbacks": [Fans]}), "in callbacks is a class: make an object of it, Fans()"),
    "a callback alone": (
        ((), {"callbacks": Fans()}),
        "callbacks=Fans must be a list of objects: callb",
    ),
    "a mixer as env": (((), {"env": VDN}), "is no subclass of qmix_jax.TeamEnv"),
    "an env as mixer": (((), {"mixer": TwoStep}), "is no subclass of qmix_jax.Mixer"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(arguments, message):
    overrides, settings = arguments
    with pytest.raises(ConfigError) as error:
        qmix_jax.train(*overrides, folder=None, **{"env": "two_step", **settings})
    assert message in str(error.value) and "\n" not in str(error.value)


def test_numbers_of_numpy_and_jax_are_settings():
    learner = {"learning_rate": np.float32(0.5), "gamma": jax.numpy.float32(0.25)}
    payoff = {"env.payoff": np.eye(2)}
    config = qmix_jax.compose("env=matrix", seed=np.int64(3), learner=learner, **payoff)
    assert (config.seed, config.learner.learning_rate, config.learner.gamma) == (3, 0.5, 0.25)
    assert config.env.settings.payoff == ((1, 0), (0, 1))


def test_a_folder_that_holds_a_run_is_refused_in_the_words_of_python(run):
    run, _ = run
    with pytest.raises(ConfigError, match=r"holds a run: continue it with resume=True, or name another folder="):
        train(folder=run.folder, num_seeds=2)


def test_a_film_of_another_format_is_refused(run, tmp_path):
    run, _ = run
    with pytest.raises(ConfigError, match=r"film\.jpeg must end in \.gif, \.mp4, \.png"):
        run.render(tmp_path / "film.jpeg")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"seed": 2**31}, {"seed": -1}, {"episodes": 0}])
def test_a_seed_that_would_be_anothers_is_refused(wrong):
    for function in (qmix_jax.evaluate, qmix_jax.render):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))} must be"):
            function("no folder", **wrong)


def test_a_class_that_is_defined_anew_takes_the_name_of_its_earlier_self():
    def define(value):
        class Mine(TwoStep):
            length = value

            def __init__(self):
                super().__init__(TwoStepConfig())

        return Mine

    for value in (1, 2):
        qmix_jax.register("mine", define(value))
        assert make_env(qmix_jax.compose("env=mine").env).length == value
    with pytest.raises(ConfigError, match="mine is taken already"):
        qmix_jax.register("mine", Game)


def test_a_run_without_folder_is_not_exported(tmp_path):
    env = TwoStep(TwoStepConfig())
    run = qmix_jax.Run(qmix_jax.compose("env=two_step"), env, {})
    with pytest.raises(ConfigError, match="train it with folder=FOLDER"):
        qmix_jax.export(run, tmp_path / "team")


def test_the_wrong_class_is_not_registered():
    with pytest.raises(ConfigError, match=r"is no subclass of qmix_jax\.TeamEnv, Mixer or Agents"):
        qmix_jax.register("mine", dict)
