"""Environments, mixers, networks and callbacks by import path or entry point: each mistake is one line."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

import qmix_jax
from qmix_jax.build import REGISTRIES, from_mapping, make_env, name_of
from qmix_jax.cli import main as cli
from qmix_jax.cli.compose import compose
from qmix_jax.config import to_mapping
from qmix_jax.files import parse_json, to_json
from qmix_jax.reporters.callbacks import make_callbacks
from qmix_jax.run import experiment, startup
from qmix_jax.run.resume import merge_settings
from qmix_jax.settings import ConfigError

SITE = Path(__file__).parent / "site"
"""A folder of installed packages with one in it: `depot`."""

OWN = '''
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
import jax
import jax.numpy as jnp
from depot.env import Depot
from depot.parts import Linear, Weights
from qmix_jax import Callback, Mixer, TeamEnv
from qmix_jax.settings import Count, Share, Traced

def function(): raise AssertionError("called")

an_object = Depot()

class Plain: pass

class Half(TeamEnv):
    def reset(self, key): ...

class Raises(Depot):
    def __init__(self, size: int = 3): raise KeyError("no floor")

class Untyped(Depot):
    def __init__(self, size): ...

class Required(Depot):
    def __init__(self, robots: int): super().__init__(robots)

class Crew(Depot):
    """A depot.

    Args:
        crew: How many.
    """
    def __init__(self, crew: Literal[2, 3, 4] = 2, grid: tuple[int, int] = (2, 3)): super().__init__(crew)

class Entities(Depot):
    def __init__(self, entities: int): self.entities = entities; super().__init__(entities)

class Loose(Depot):
    def __init__(self, bonus: float = 0.0, **others): self.bonus = bonus; super().__init__(**others)

class Named(Depot):
    def __init__(self, name: str = "depot", shield: int = 1): self.name, self.shield = name, shield; super().__init__()

class Misspelt(Depot):
    training = {"learner": {"gama": 0.9}}

class Untrained(Depot):
    training = "gamma"

class Nested(Depot):
    training = {"env": {"size": 3}}

@dataclass(frozen=True)
class Goal:
    size: Count = 2

class Goals(Depot):
    def __init__(self, first: Goal = Goal(), second=Goal(5)): super().__init__()

class Shares(Depot):
    def __init__(
        self,
        shares: tuple[Share, ...] = (),
        counts: dict[str, Count] = {"a": 1},
        goals: list[Goal] | None = None,
        file: Path | None = None,
        only: Goal | None = None,
    ):
        super().__init__()

class Drawn(Depot):
    def __init__(self, draw=print): self.draw = draw; super().__init__()

class ByPosition(Depot):
    def __init__(self, robots, /, layout: str = "small"): self.layout = layout; super().__init__()

class Group(Depot):
    def __init__(self, goal: Goal = Goal(), goals: tuple[Goal, ...] = (Goal(5),), other=None):
        self.goal, self.goals, self.other = goal, goals, other
        super().__init__()

class Unresolved(Depot):
    def __init__(self, size: "Nowhere" = 3): ...

class RaisingLinear(Linear):
    def __init__(self, env, size: int = 3): raise KeyError("no floor")

class Blind(Linear):
    def __init__(self, width: int = 3): ...

class NoValues(Linear):
    def step(self, params, state, inputs):
        state, output = super().step(params, state, inputs)
        return state, output._replace(q=output.q[..., :1])

class TeamFeatures(Linear):
    def step(self, params, state, inputs):
        state, output = super().step(params, state, inputs)
        return state, output._replace(features=output.features.sum(1))

class OtherState(Linear):
    def step(self, params, state, inputs):
        state, output = super().step(params, state, inputs)
        return (state,), output

class OtherType(Linear):
    def step(self, params, state, inputs):
        state, output = super().step(params, state, inputs)
        return {"trace": state["trace"].astype(jnp.bfloat16)}, output

class NoBatch(Linear):
    def initial_state(self, num_envs): return jnp.zeros((2, 8))

class FailingStep(Linear):
    def step(self, params, state, inputs): return state["nothing"]

class NoPair(Linear):
    def step(self, params, state, inputs): return None

class ShortUnroll(Linear):
    def unroll(self, params, state, inputs):
        return self.step(params, state, type(inputs)(*(each[0] for each in inputs)))

class WholeWeights(Linear):
    def init(self, key): return {"into": jnp.ones((3, 8), int), "out": jnp.ones((8, 2))}

class HalfWeights(Linear):
    def init(self, key): return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), super().init(key))

class Central(Weights):
    central = property(lambda self: Weights())
    def importance(self, chosen, targets, best, is_best): return jnp.ones(3)

class NoImportance(Central):
    importance = Mixer.importance

class NumberCentral(Central):
    central = 7

class NoStreams(Weights):
    def __call__(self, joint): return super().__call__(joint)[..., :0]

class TwoCentral(Central):
    central = property(lambda self: TwoStreams())

class TwoStreams(Weights):
    def __call__(self, joint): return super().__call__(joint) * jnp.ones(2)

class FailingMixer(Weights):
    def __call__(self, joint): return joint.nothing

class NoStream(Weights):
    def __call__(self, joint): return joint.chosen_q.sum(-1)

class LongPenalty(Weights):
    def penalty(self, chosen, best): return chosen.chosen_q

class Bent(Weights):
    bend: Callable = print
    scale: Traced[float] = 1.0

class BranchingMixer(Weights):
    scale: Traced[float] = 1.0
    def __call__(self, joint): return super().__call__(joint) if self.scale > 0 else -super().__call__(joint)

class RaisingCallback(Callback):
    def __init__(self): raise KeyError("no floor")
'''
MODULES = {
    "own_parts": OWN,
    "own_broken": "raise RuntimeError('no floor')",
    "own_exit": "import sys; sys.exit(3)",
    "own_needs": "import nothing_like_it",
}


@pytest.fixture(scope="module", autouse=True)
def modules(tmp_path_factory):
    """`SITE`, a package with the same name for another class, and modules with mistakes, on Python's search path."""
    folder = tmp_path_factory.mktemp("modules")
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(text)
    info = folder / "rival-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[qmix_jax.environments]\ntwice = depot.env:Depot\n[qmix_jax.mixers]\nweights = depot.parts:Weights\n"
    )
    again = folder / "another-1.0.dist-info"
    again.mkdir()
    (again / "METADATA").write_text("Metadata-Version: 2.1\nName: another\nVersion: 1.0\n")
    (again / "entry_points.txt").write_text("[qmix_jax.environments]\ntwice = own_parts:Required\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(SITE), str(folder)])
        forget_installed()
        yield
    forget_installed()


def forget_installed():
    """Let the registries look for entry points again."""
    for registry in REGISTRIES.values():
        for name in ("installed", "_of_packages"):
            vars(registry()).pop(name, None)
        registry()._registered.clear()


def check(*overrides):
    """What `train` checks before it writes anything."""
    config = from_mapping(compose([*overrides]))
    startup.start_jax([config.devices])
    experiment.check(config)
    make_callbacks(config.callbacks)


MISTAKES = {
    "no class": ("env=depot.env:", "env=depot.env: must be written package.module:Class"),
    "two colons": ("env=depot:env:Depot", "env=depot:env:Depot must be written package.module:Class"),
    "dots alone": ("env=depot.env.Depot", "(did you mean 'depot.env:Depot'?)"),
    "a slash": ("env=depot/env.py:Depot", "must be written package.module:Class"),
    "a file": ("env=depot.py:Depot", "(did you mean 'depot:Depot'?)"),
    "a file in a folder": ("env=./depot/env.py:Depot", "(did you mean 'depot.env:Depot'?)"),
    "a file without class": ("env=depot.py", "env=depot.py is not known; the class of a file is written depot:Class"),
    "capitals": ("env=depot algorithm=QMIX", "algorithm=QMIX is not known (did you mean 'qmix'?)"),
    "no such module": ("env=nothing.like:It", "(ModuleNotFoundError: No module named 'nothing'); looked in installed"),
    "no such submodule": ("env=depot.nothing:It", "(ModuleNotFoundError: No module named 'depot.nothing')"),
    "a module that raises": ("env=own_broken:It", "(RuntimeError: no floor), at "),
    "a module that exits": ("env=own_exit:It", "own_exit cannot be imported (SystemExit: 3), at "),
    "a module that needs another": ("env=own_needs:It", "No module named 'nothing_like_it'), at "),
    "no such class": ("env=depot.env:Deopt", "depot.env has no class Deopt (did you mean 'Depot'?)"),
    "a function": ("env=own_parts:function", "env=own_parts:function is no subclass of qmix_jax.TeamEnv"),
    "an object": ("env=own_parts:an_object", "env=own_parts:an_object is no subclass of qmix_jax.TeamEnv"),
    "a class of something else": ("env=own_parts:Plain", "env=own_parts:Plain is no subclass of qmix_jax.TeamEnv"),
    "a mixer as env": ("env=depot.parts:Weights", "env=depot.parts:Weights is no subclass of qmix_jax.TeamEnv"),
    "an env as mixer": ("algorithm=depot.env:Depot", "algorithm=depot.env:Depot is no subclass of qmix_jax.Mixer"),
    "an env as network": ("agent=depot.env:Depot", "agent=depot.env:Depot is no subclass of qmix_jax.Agents"),
    "an abstract method": ("env=own_parts:Half", "env=own_parts:Half does not define step"),
    "a constructor that raises": (
        "env=own_parts:Raises",
        "env=own_parts:Raises cannot be made: KeyError: 'no floor' (",
    ),
    "a network's that raises": ("env=depot agent=own_parts:RaisingLinear", "RaisingLinear cannot be made: KeyError"),
    "a network that takes no env": ("env=depot agent=own_parts:Blind", "the constructor of Blind must take env first"),
    "an argument without type": ("env=own_parts:Untyped", "the argument size of Untyped() needs a type"),
    "an argument that no YAML holds": (
        "env=own_parts:Drawn",
        "the argument draw of Drawn() cannot be a setting: its default is of type builtin_function_or_method; make",
    ),
    "a mixer's option that no YAML holds": (
        "env=depot algorithm=own_parts:Bent",
        "the argument bend of Bent() cannot be a setting: its default is of type builtin_function_or_method; make",
    ),
    "an argument by position": (
        "env=own_parts:ByPosition",
        "the argument robots of ByPosition() is positional-only and cannot be a setting",
    ),
    "an argument with the name of another setting": (
        "env=own_parts:Named",
        "the argument name of Named() cannot be a setting: env.name is one of every environment; give it another name",
    ),
    "an unknown setting of training": (
        "env=own_parts:Misspelt",
        "Misspelt.training: unknown setting 'learner.gama' (did you mean 'learner.gamma'?)",
    ),
    "settings of training that are none": (
        "env=own_parts:Untrained",
        "Untrained.training is of type str, but must be a dict",
    ),
    "an environment's own setting as one of training": (
        "env=own_parts:Nested",
        "Nested.training: unknown setting 'env'",
    ),
    "a type that does not exist": ("env=own_parts:Unresolved", "the arguments of Unresolved() cannot be read: name 'N"),
    "a setting that is not set": ("env=own_parts:Required", "env.robots has no default: set env.robots=VALUE"),
    "an unknown setting": (
        "env=depot env.num_robot=3",
        "unknown setting 'env.num_robot' (did you mean 'env.num_robots'",
    ),
    "a wrong type": ("env=depot.env:Depot env.num_robots=1.5", "env.num_robots=1.5 must be a whole number"),
    "a wrong word": ("env=depot env.layout=smal", "env.layout=smal is not known (did you mean 'small'?)"),
    "a wrong number of a few": ("env=own_parts:Crew env.crew=5", "env.crew=5 is not known; choose one of 2, 3, 4"),
    "a setting of a group that is null": (
        "env=own_parts:Shares env.only.size=3",
        "env.only is null; where it can be a group, write env.only={size:3}",
    ),
    "a type that no setting has": (
        "env=own_parts:Shares env.file=a",
        "env.file=a must be of the type Path, which no setting can have, or null",
    ),
    "a number of a group": ("env=own_parts:Goals env.first.size=0", "env.first.size=0 must be greater than 0"),
    "a number of a list": ("env=own_parts:Shares env.shares=[7]", "env.shares=7.0 must lie between 0 and 1"),
    "a number of a mapping": ("env=own_parts:Shares env.counts={a:0}", "env.counts.a=0 must be greater than 0"),
    "a word in a mapping of numbers": (
        "env=own_parts:Shares env.counts.b=two",
        "env.counts.b=two must be a whole number",
    ),
    "a number of one of several": ("env=own_parts:Shares env.goals=[{size:0}]", "env.goals.size=0 must be greater"),
    "too long a tuple": ("env=own_parts:Crew env.grid=[2,2,9]", "env.grid=[2, 2, 9] must be a list of 2 values"),
    "a mixer's setting": ("env=depot algorithm=weights algorithm.strt=2", "(did you mean 'algorithm.start'?)"),
    "a network's setting": ("env=depot agent=linear agent.decai=2", "(did you mean 'agent.decay'?)"),
    "Q-values of one action": (
        "env=depot agent=own_parts:NoValues",
        "NoValues.step: q is float32 of shape (3, 2, 1), b",
    ),
    "no features of agents": (
        "env=depot agent=own_parts:TeamFeatures",
        "features is float32 of shape (3, 4), but must",
    ),
    "another state": ("env=depot agent=own_parts:OtherState", "OtherState.step: returns another structure of the recu"),
    "another type of state": (
        "env=depot agent=own_parts:OtherType",
        "OtherType.step: returns bfloat16 of shape (3, 2, 4",
    ),
    "a state for one": (
        "env=depot agent=own_parts:NoBatch",
        "NoBatch.initial_state: must return arrays whose first axis",
    ),
    "a step that raises": ("env=depot agent=own_parts:FailingStep", "FailingStep.step: KeyError: 'nothing' ("),
    "a step without output": ("env=depot agent=own_parts:NoPair", "NoPair.step: must return (state, AgentOutput)"),
    "an unroll of one step": (
        "env=depot agent=own_parts:ShortUnroll",
        "ShortUnroll.unroll: q is float32 of shape (3, 2, ",
    ),
    "integer parameters": (
        "env=depot agent=own_parts:WholeWeights",
        "WholeWeights.init: the parameter ['into'] is int32",
    ),
    "parameters of half precision": (
        "env=depot agent=own_parts:HalfWeights",
        "is bfloat16 of shape (3, 4), but must be",
    ),
    "importances of another shape": (
        "env=depot algorithm=own_parts:Central",
        "Central.importance: returns float32 of shape (3,), but must return float32 of shape (*batch, 1),",
    ),
    "no importances": ("env=depot algorithm=own_parts:NoImportance", "NoImportance.importance: NotImplementedError"),
    "a central value that is no mixer": (
        "env=depot algorithm=own_parts:NumberCentral",
        "NumberCentral.central: is the Python int 7, but must be a Mixer",
    ),
    "a central value of two streams": (
        "env=depot algorithm=own_parts:TwoCentral",
        "TwoStreams.__call__: returns float32 of shape (2, 3, 2), but must return float32 of shape (*batch, 1)",
    ),
    "no stream at all": (
        "env=depot algorithm=own_parts:NoStreams",
        "NoStreams.__call__: returns float32 of shape (2, 3, 0)",
    ),
    "a mixer that raises": (
        "env=depot algorithm=own_parts:FailingMixer",
        "FailingMixer.__call__: AttributeError: 'Mixer",
    ),
    "no value stream": (
        "env=depot algorithm=own_parts:NoStream",
        "returns float32 of shape (2, 3), but must return float",
    ),
    "a penalty of each agent": (
        "env=depot algorithm=own_parts:LongPenalty",
        "LongPenalty.penalty: returns float32 of s",
    ),
    "a mixer with a branch on a Traced option": (
        "env=depot algorithm=own_parts:BranchingMixer",
        "BranchingMixer.scale is Traced, but decides a branch, a shape or a dtype: a Python if, while,",
    ),
    "a callback without class": (
        "env=depot callbacks=[depot.parts]",
        "must be written package.module:Class (did you m",
    ),
    "a callback that is a function": (
        "env=depot callbacks=[own_parts:function]",
        "is no subclass of qmix_jax.Callback",
    ),
    "a callback that raises": (
        "env=depot callbacks=[own_parts:RaisingCallback]",
        "cannot be made: KeyError: 'no floor'",
    ),
    "callbacks without list": ("env=depot callbacks=depot.parts:Notes", "callbacks=depot.parts:Notes must be a list"),
    "an entry point to nowhere": ("env=lost", "depot.nowhere cannot be imported (ModuleNotFoundError"),
    "a name of two packages": ("env=twice", "write env=depot.env:Depot or env=own_parts:Required"),
    "a name like another": ("env=depo", "env=depo is not known (did you mean 'depot'?)"),
    "a misspelt network": ("env=depot agent=liner", "agent=liner is not known (did you mean 'linear'?)"),
    "one job of a sweep": ("-m env=depot,depot.env:Deopt", "depot.env has no class Deopt (did you mean 'Depot'?)"),
}


@pytest.mark.parametrize(("line", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(line, message):
    with pytest.raises(ConfigError) as error:
        check(*line.split())
    assert message in str(error.value) and "\n" not in str(error.value)


def test_each_choice_is_named_once():
    with pytest.raises(ConfigError) as error:
        check("env=xyzabc")
    choices = str(error.value).partition("choose one of ")[2].split(", ")
    assert "smax" in choices and "depot" in choices and len({*choices}) == len(choices)


def test_a_file_that_a_module_of_python_hides_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "queue.py").write_text("class Fire: pass")
    with pytest.raises(ConfigError, match=r"queue has no class Fire; it is .*queue\.py, which hides queue\.py here"):
        check("env=queue:Fire")
    (tmp_path / "json").mkdir()
    with pytest.raises(ConfigError, match=r"No module named 'json\.env'\); it is .*, which hides json here"):
        check("env=json.env:Fire")


YAMLS = {
    "an unknown setting": ("env:\n  name: depot\n  num_robot: 3\n", "'env.num_robot' (did you mean 'env.num_robots'?)"),
    "an unknown environment": ("env:\n  name: depo\n", "env=depo is not known (did you mean 'depot'?)"),
    "no YAML": ("env: {name: depot\n", "mine.yaml:3: expected ',' or '}'"),
}


@pytest.mark.parametrize(("text", "message"), YAMLS.values(), ids=YAMLS)
def test_a_mistake_in_a_yaml_is_one_line(text, message, tmp_path):
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "mine.yaml").write_text(f"# @package _global_\n{text}")
    with pytest.raises(ConfigError) as error:
        check("env=mine", "--config-dir", str(tmp_path))
    assert message in str(error.value) and "\n" not in str(error.value)


# --- what works --------------------------------------------------------------------------------------------------


def test_settings_are_the_arguments_of_the_constructor():
    config = from_mapping(compose(["env=depot.env:Depot", "env.num_robots=4", "agent=depot.parts:Linear"]))
    assert vars(config.env.settings) == {"num_robots": 4, "layout": "small", "bonus": 1.0}
    assert vars(config.agent.settings) == {"hidden_size": 4, "decay": 0.5}  # 4 suits the environment
    assert config.rollout.num_steps == 4 and config.import_folders == (str(SITE),)


def test_a_setting_may_have_a_name_that_is_no_option_of_mixers():
    config = from_mapping(compose(["env=own_parts:Entities", "env.entities=4"]))
    assert config.env.settings.entities == 4
    own_parts = import_module("own_parts")
    assert name_of(own_parts.Entities(4)) == "own_parts:Entities"


def test_a_name_makes_an_object_again_only_where_its_class_and_all_its_arguments_are_known():
    own_parts = import_module("own_parts")
    assert name_of(own_parts.Loose(bonus=2.0)) == "own_parts:Loose (made in Python)", "of **others nothing is known"
    for name in ("Entities", "Missing"):
        another = type(name, (own_parts.Entities,), {"__module__": "own_parts"})
        assert name_of(another(4)) == f"own_parts:{name} (made in Python)"


def test_a_dataclass_as_an_argument_is_a_group_of_settings():
    settings = from_mapping(compose(["env=own_parts:Goals", "env.first.size=3"])).env.settings
    assert (settings.first.size, settings.second.size) == (3, 5)
    with pytest.raises(ConfigError, match=r"env\.second\.size=1\.5 must be a whole number"):
        from_mapping(compose(["env=own_parts:Goals", "env.second.size=1.5"]))


@pytest.mark.parametrize("other", ["env.counts.b=2", "++env.counts.b=2"])
def test_a_group_that_is_null_is_set_as_a_whole(other):
    assert from_mapping(compose(["env=own_parts:Shares", "env.only={size:3}", other])).env.settings.only.size == 3


@pytest.mark.parametrize("line", ["env.counts={b:2}", "env.counts.b=2", "++env.counts.b=2"])
def test_a_mapping_takes_other_names_than_those_of_its_default(line):
    assert from_mapping(compose(["env=own_parts:Shares", line])).env.settings.counts == {"a": 1, "b": 2}


@pytest.mark.parametrize(("name", "message"), [("Named", "the argument name of"), ("Misspelt", "Misspelt.training: ")])
def test_an_object_has_the_mistakes_of_its_class(name, message):
    part = getattr(import_module("own_parts"), name)()
    with pytest.raises(ConfigError, match=message):
        from_mapping({"env": {"name": name_of(part)}, "algorithm": {"name": "qmix"}}, {"env": part})


def test_an_object_may_have_arguments_that_are_no_settings():
    import own_parts

    for env in own_parts.Drawn(), own_parts.Drawn(len), own_parts.ByPosition(3):
        assert vars(qmix_jax.compose(env=env).env.settings) == {}
    config = qmix_jax.compose("env=depot", mixer=own_parts.Bent(bend=len, scale=2.0))
    assert config.algorithm.name == "own_parts:Bent (made in Python)"
    assert config.algorithm.options == {"start": 1.0, "scale": 2.0}


def test_an_object_with_groups_is_made_again_from_its_settings():
    import own_parts

    env = own_parts.Group(own_parts.Goal(3), (own_parts.Goal(4), own_parts.Goal(6)))
    written = parse_json(to_json(to_mapping(qmix_jax.compose(env=env))))
    assert written["env"]["goal"] == {"size": 3}
    again = make_env(from_mapping(written).env)
    assert (again.goal, again.goals) == (env.goal, env.goals)
    assert from_mapping(written, {"env": env}).env.settings.goal == env.goal
    assert name_of(own_parts.Group(other=own_parts.Goal(3))).endswith("(made in Python)")  # nothing says its type


def test_a_setting_can_be_one_of_a_few_numbers(capsys):
    crew = from_mapping(compose(["env=own_parts:Crew", "env.crew=4.0"])).env.settings.crew
    assert (crew, type(crew)) == (4, int)
    assert cli.main(["train", "--help", "settings", "env=own_parts:Crew"]) == 0
    assert "crew: 2  # How many (2, 3, 4)" in capsys.readouterr().out


def test_the_default_yaml_of_an_installed_package_sets_what_differs():
    config = from_mapping(compose(["env=depot_large"]))
    assert (config.env.settings.layout, config.env.settings.num_robots, config.rollout.num_steps) == ("large", 2, 6)
    assert config.rollout.num_envs == 4  # as the class says


def test_a_setting_without_default_is_set():
    assert from_mapping(compose(["env=own_parts:Required", "env.robots=3"])).env.settings.robots == 3


def test_a_network_gets_of_the_settings_that_suit_an_environment_those_that_it_has():
    config = from_mapping(compose(["env=two_step", "agent=own_parts:RaisingLinear"]))
    assert vars(config.agent.settings) == {"size": 3}
    with pytest.raises(ConfigError, match=r"'agent.hidden_size'; it belongs to agent=deep_sets\|gru\|transformer$"):
        from_mapping(compose(["env=two_step", "agent=own_parts:RaisingLinear", "agent.hidden_size=5"]))


def test_an_entry_point_to_nowhere_disturbs_no_other_name(capsys):
    check("env=depot", "algorithm=weights", "agent=linear")
    assert cli.main(["train", "--help"]) == 0
    help_text = capsys.readouterr().out
    assert "from depot.env:Depot" in help_text and "from depot.nowhere:Lost" in help_text


def test_a_name_is_registered_once():
    environments = REGISTRIES["env"]()
    import own_parts

    with pytest.raises(ConfigError, match="smax is taken already"):
        environments.register("smax", own_parts.Required)
    with pytest.raises(ConfigError, match="env=half does not define step"):
        environments.register("half", own_parts.Half)
    environments.register("mine", own_parts.Required)
    with pytest.raises(ConfigError, match="mine is taken already"):
        environments.register("mine", own_parts.an_object.__class__)
    assert from_mapping(compose(["env=mine", "env.robots=2"])).env.settings.robots == 2


def test_a_module_that_no_longer_imports_is_not_blamed_on_the_runs_settings(tmp_path):
    (tmp_path / "breaks_later.py").write_text("raise KeyError('boom')")
    settings = f"env: {{name: 'breaks_later:Env'}}\nalgorithm: {{name: qmix}}\nimport_folders: ['{tmp_path}']\n"
    (tmp_path / "config.yaml").write_text(settings)
    with pytest.raises(ConfigError, match=r"^env=breaks_later:Env: breaks_later cannot be imported"):
        merge_settings(tmp_path, [])
