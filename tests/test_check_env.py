"""check-env: a right environment passes; each mistake gives a line that names the place, what is and what must be."""

import random
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny

from qmix_jax.build import from_mapping, make_env
from qmix_jax.cli import check_env
from qmix_jax.cli import main as cli
from qmix_jax.config import AlgorithmConfig, EnvConfig
from qmix_jax.envs import ENVIRONMENTS
from qmix_jax.envs.base import TeamEnv
from qmix_jax.envs.check import problems, refuse_wrong_shapes, shape_problems
from qmix_jax.envs.check.random_play import bytes_per_step, play, speed
from qmix_jax.envs.layout import AgentLayout, Feature, Layout
from qmix_jax.envs.smax.settings import SmaxConfig
from qmix_jax.envs.two_step import TwoStep, TwoStepConfig
from qmix_jax.envs.wrappers.joint import JointTeam
from qmix_jax.envs.wrappers.shield import Shielded
from qmix_jax.learning.learner import LossMetrics
from qmix_jax.learning.rollout import EpisodeSums
from qmix_jax.records import ENVIRONMENT_NAN, FROZEN, RESERVED_METRICS
from qmix_jax.run import experiment, startup
from qmix_jax.run.metrics import Seconds, make_row
from qmix_jax.run.program import ChunkMetrics, Program
from qmix_jax.run.usage import Usage
from qmix_jax.settings import ConfigError, Count, Share, Traced, constructor_settings
from qmix_jax.types import Clock, Observation, Outcome, TeamSpec


class ToyState(NamedTuple):
    time: jax.Array
    place: jax.Array


class Toy(TeamEnv):
    """Two agents walk to the right, 0 to 1 a step; at 2 they have won, and after four steps they are stopped."""

    spec = TeamSpec("toy", ("scout", "digger"), 3, 4, 5, episode_limit=4, idle_action=0, shortest_episode=2)

    def see(self, state):
        return Observation(jnp.full((2, 3), state.place), jnp.ones((2, 4), bool), jnp.full(5, state.place))

    def reset(self, key):
        state = ToyState(jnp.array(0), jax.random.uniform(key, maxval=0.1))
        return state, self.see(state)

    def step(self, key, state, action):
        state = ToyState(state.time + 1, state.place + jax.random.uniform(key))
        won = state.place > 2
        outcome = Outcome(jnp.sum(action) / 6, won, ~won & (state.time >= 4), {"win_rate": won})
        return state, self.see(state), outcome


def toy(**changes):
    """The environment with other methods, or with other fields of its spec."""
    fields = {name: changes.pop(name) for name in list(changes) if name in TeamSpec._fields}
    return type("Toy", (Toy,), {"spec": Toy.spec._replace(**fields), **changes})()


def after_reset(change):
    """A `reset` that returns `change(state, observation)`."""
    return lambda self, key: change(*Toy.reset(self, key))


def after_step(change):
    """A `step` that returns `change(state, observation, outcome)`."""
    return lambda self, key, state, action: change(*Toy.step(self, key, state, action))


def outcome(**fields):
    """A `step` whose outcome has these fields."""
    return after_step(lambda state, seen, outcome: (state, seen, outcome._replace(**fields)))


def seen(change):
    """A `see` that returns `change(observation, state)`."""
    return lambda self, state: change(Toy.see(self, state), state)


def rename(**fields):
    """A `see` whose observation has other fields."""
    return seen(lambda observation, state: observation._replace(**{k: v(observation) for k, v in fields.items()}))


# --- mistakes that tracing shows ---------------------------------------------------------------------------------

SPEC = {
    "missing": ({"spec": None}, "spec is missing: set self.spec = TeamSpec(...) in __init__"),
    "a method": (
        {"spec": lambda self: Toy.spec},
        "spec is of type method, which needs @property above it, but must be a TeamSpec",
    ),
    "a dict": ({"spec": Toy.spec._asdict()}, "spec is of type dict, but must be a TeamSpec"),
    "no name": ({"name": ""}, "spec.name is '', but must be a word"),
    "a name of two lines": ({"name": "toy\n"}, "spec.name is 'toy\\n', but must be a word"),
    "float count": ({"num_actions": 4.0}, "spec.num_actions is 4.0, but must be a Python int of 1 or more"),
    "count of NumPy": (
        {"obs_size": np.int64(3)},
        "spec.obs_size is np.int64(3), a NumPy array (int64 of shape ()), but must be a Python int of 1 or more",
    ),
    "count of bool": ({"state_size": True}, "spec.state_size is True, but must be a Python int of 1 or more"),
    "too many actions": ({"num_actions": 40_000}, "spec.num_actions is 40000, but must be 32766 at most"),
    "negative limit": ({"episode_limit": -1}, "spec.episode_limit is -1, but must be a Python int of 1 or more"),
    "names in a list": (
        {"agent_names": ["a", "b"]},
        "spec.agent_names is ['a', 'b'], of type list, but must be a tuple with a different word for each agent",
    ),
    "names in a word": (
        {"agent_names": "ab"},
        "spec.agent_names is 'ab', but must be a tuple with a different word for each agent",
    ),
    "two agents of one name": (
        {"agent_names": ("a", "a")},
        "spec.agent_names is ('a', 'a'), but must be a tuple with a different word for each agent",
    ),
    "idle action out of range": (
        {"idle_action": 4},
        "spec.idle_action is 4, but must be None, or an action: an int from 0 to spec.num_actions - 1 = 3",
    ),
    "shortest above the limit": (
        {"shortest_episode": 5},
        "spec.shortest_episode is 5, but must be an int from 1 to spec.episode_limit = 4",
    ),
}

ARGUMENTS = {
    "no key": ({"reset": lambda self: None}, "reset takes (), but must be reset(key)"),
    "no self": ({"reset": lambda key: None}, "reset takes (), but must be reset(key)"),
    "key last": (
        {"step": lambda self, state, action, key: None},
        "step takes (state, action, key), but must be step(key, state, action), in this order",
    ),
    "no action": (
        {"step": lambda self, key, state: None},
        "step takes (key, state), but must be step(key, state, action)",
    ),
    "no method": ({"scene": 3}, "scene is the Python int 3, but must be a method scene(state)"),
}

RETURNS = {
    "no state": (
        {"reset": after_reset(lambda state, observation: observation)},
        "reset returns Observation, but must return (state, Observation)",
    ),
    "swapped": (
        {"reset": after_reset(lambda state, observation: (observation, state))},
        "reset returns (Observation, ToyState), but must return (state, Observation)",
    ),
    "a dict": (
        {"reset": after_reset(lambda state, observation: (state, {"scout": observation.agents[0]}))},
        "reset returns (ToyState, dict), but must return (state, Observation)",
    ),
    "nothing": (
        {"step": lambda self, key, state, action: None},
        "step returns None, but must return (state, Observation, Outcome)",
    ),
    "no outcome": (
        {"step": after_step(lambda state, observation, outcome: (state, observation))},
        "step returns (ToyState, Observation), but must return (state, Observation, Outcome)",
    ),
    "as in Gymnasium": (
        {"step": after_step(lambda state, seen, outcome: (seen, outcome.reward, outcome.terminated, False, {}))},
        "step returns (Observation, array, array, bool, dict), but must return (state, Observation, Outcome)",
    ),
    "no observation from decompress": (
        {
            "compress": lambda self, state, observation: observation.agents,
            "decompress": lambda self, compact: compact,
        },
        "decompress returns array, but must return Observation",
    ),
    "a scene in a list": (
        {"scene": lambda self, state: [state.time]},
        "scene returns list, but must return a dict of arrays by name",
    ),
    "a word in the scene": (
        {"scene": lambda self, state: {"place": "left"}},
        "scene: 'place' is the Python str 'left', but must be an array",
    ),
}

AGENTS, AVAILABLE = "(agents x spec.obs_size = 2 x 3)", "(agents x spec.num_actions = 2 x 4)"
OBSERVATIONS = {
    "of one agent": (
        {"see": rename(agents=lambda seen: seen.agents[0])},
        f"Observation.agents is float32 of shape (3,), but must be a JAX array, float32 of shape (2, 3) {AGENTS}",
    ),
    "of another size": (
        {"obs_size": 7},
        "Observation.agents is float32 of shape (2, 3), but must be a JAX array, float32 of shape (2, 7) "
        "(agents x spec.obs_size = 2 x 7)",
    ),
    "whole numbers": (
        {"see": rename(agents=lambda seen: seen.agents.astype(int))},
        f"Observation.agents is int32 of shape (2, 3), but must be a JAX array, float32 of shape (2, 3) {AGENTS}",
    ),
    "of NumPy": (
        {"see": rename(agents=lambda seen: np.zeros((2, 3)))},
        "Observation.agents is a NumPy array (float64 of shape (2, 3)), but must be a JAX array, float32 of shape "
        f"(2, 3) {AGENTS}",
    ),
    "0 and 1 for legal": (
        {"see": rename(available=lambda seen: seen.available.astype(int))},
        f"Observation.available is int32 of shape (2, 4), but must be a JAX array, bool of shape (2, 4) {AVAILABLE}",
    ),
    "a list": (
        {"see": rename(available=lambda seen: [[True] * 4] * 2)},
        f"Observation.available is of type list, but must be a JAX array, bool of shape (2, 4) {AVAILABLE}",
    ),
    "a missing state": (
        {"see": rename(state=lambda seen: None)},
        "Observation.state is None, which means the 6 numbers that all agents see, but must have spec.state_size = 5",
    ),
    "a state of another size": (
        {"state_size": 9},
        "Observation.state is float32 of shape (5,), but must be a JAX array, float32 of shape (9,) "
        "(spec.state_size = 9)",
    ),
}

REWARD = "but must be a JAX array, float32 of shape () (the team's one reward)"
OUTCOMES = {
    "a reward of Python": ({"reward": 0.0}, f"reward is the Python float 0.0, {REWARD}"),
    "a reward for each agent": ({"reward": jnp.zeros(2)}, f"reward is float32 of shape (2,), {REWARD}"),
    "a reward with an axis": ({"reward": jnp.zeros(1)}, f"reward is float32 of shape (1,), {REWARD}"),
    "an integer reward": ({"reward": jnp.array(1)}, f"reward is int32 of shape (), {REWARD}"),
    "terminated as a number": (
        {"terminated": jnp.array(0.0)},
        "terminated is float32 of shape (), but must be a JAX array, bool of shape ()",
    ),
    "truncated for each agent": (
        {"truncated": jnp.zeros(2, bool)},
        "truncated is bool of shape (2,), but must be a JAX array, bool of shape ()",
    ),
    "no metrics": ({"metrics": None}, "metrics is None, but must be a dict of arrays by name"),
    "a metric for each agent": (
        {"metrics": {"food": jnp.zeros(2)}},
        "metrics['food'] is float32 of shape (2,), but must be a JAX array of one number, of shape ()",
    ),
    "a metric of Python": (
        {"metrics": {"food": 1}},
        "metrics['food'] is the Python int 1, but must be a JAX array of one number, of shape ()",
    ),
    "a random key as a metric": (
        {"metrics": {"food": jax.random.key(0)}},
        "metrics['food'] is key<fry> of shape (), but must be a JAX array of one number, of shape ()",
    ),
    "a number as a metric's name": (
        {"metrics": {1: jnp.zeros(())}},
        "metrics[1] has the name 1, but must have a word of printable characters",
    ),
    "a metric's name of two lines": (
        {"metrics": {"food\n": jnp.zeros(())}},
        "metrics['food\\n'] has the name 'food\\n', but must have a word of printable characters",
    ),
    "a reserved name": (
        {"metrics": {"return": jnp.zeros(())}},
        "metrics['return'] has the name of a metric of every run, but must have another name",
    ),
}

STATES = {
    "another dtype after a step": (
        {"step": after_step(lambda state, *rest: (state._replace(time=state.time + 0.5), *rest))},
        "step: state.time is float32 of shape (), but must be int32 of shape (), as reset returns it",
    ),
    "another class after a step": (
        {"step": after_step(lambda state, *rest: (state._asdict(), *rest))},
        "step: state is dict of (place, time), but must be ToyState of (time, place), as reset returns it",
    ),
    "a word in the state": (
        {"reset": after_reset(lambda state, seen: ((state, {"map": "maze"}), seen))},
        "reset: state[1]['map'] is the Python str 'maze', but must be an array",
    ),
    "a class of one's own": (
        {"reset": after_reset(lambda state, seen: (EmptyState(), seen))},
        "reset: state is of type EmptyState, but must be an array, or a NamedTuple, dict or registered dataclass of "
        "them",
    ),
    "a restored observation without its state": (
        {
            "state_size": 6,
            "see": rename(state=lambda seen: jnp.zeros(6)),
            "decompress": lambda self, compact: compact._replace(state=None),
        },
        "decompress: Observation is Observation of (agents, available), but must be Observation of (agents, available, "
        "state), as reset returns it",
    ),
}


def layout(scout=3, digger=2, actions=4, state=(), **fields):
    """A `layout` in which the agents see so many numbers and have so many actions."""
    kinds = {"scout": (Feature("height"),) * scout, "digger": (Feature("height"),) * digger}
    agents = [AgentLayout(((name, name), ("goal", "none")), ("walk",) * actions) for name in kinds]
    agents[0] = agents[0]._replace(**fields)
    return {"layout": lambda self: Layout({**kinds, "none": ()}, tuple(agents), "always", state)}


LAYOUTS = {
    "no method": ({"layout": Layout({}, (), "")}, "layout is of type Layout, but must be a method layout()"),
    "of another class": ({"layout": lambda self: {}}, "layout() is of type dict, but must be a Layout"),
    "of one agent": (
        {"layout": lambda self: Layout({}, (AgentLayout((), ()),), "")},
        "layout describes 1 agents, but must describe spec.num_agents = 2",
    ),
    "without the kind": (
        layout(blocks=(("scout", "unit"),)),
        "layout has a block of kind 'unit', but must have one of its kinds: scout, digger, none",
    ),
    "too long": (
        layout(digger=4),
        "layout.agents[1], with the most numbers, has 4 numbers, but must have spec.obs_size = 3",
    ),
    "too short": (
        layout(scout=2),
        "layout.agents[0], with the most numbers, has 2 numbers, but must have spec.obs_size = 3",
    ),
    "without an action": (
        layout(actions=3),
        "layout.agents[0], with the most actions, has 3 actions, but must have spec.num_actions = 4",
    ),
    "with one aim": (
        layout(aims=("goal",)),
        "layout.agents[0] has 1 aims, but must have none, or one for each of its 4 actions",
    ),
    "with an aim at what is not seen": (
        layout(aims=(None, "goal", "scout", "prey")),
        "layout.agents[0] aims at 'prey', but must aim at None or an entity of its blocks: scout, goal",
    ),
    "of another state": (
        layout(state=(("scout", "scout"),)),
        "layout.state has 3 numbers, but must have spec.state_size = 5",
    ),
    "painter": ({"painter": "paint"}, "painter is the Python str 'paint', but must be \"module:function\" or None"),
}


class EmptyState:
    """No pytree."""


CASES = {
    **{f"spec: {name}": case for name, case in SPEC.items()},
    **{f"arguments: {name}": case for name, case in ARGUMENTS.items()},
    **{f"returns: {name}": case for name, case in RETURNS.items()},
    **{f"observation: {name}": (change, f"reset: {line}") for name, (change, line) in OBSERVATIONS.items()},
    **{
        f"outcome: {name}": ({"step": outcome(**fields)}, f"step: Outcome.{line}")
        for name, (fields, line) in OUTCOMES.items()
    },
    **{f"state: {name}": case for name, case in STATES.items()},
    **{f"layout: {name}": case for name, case in LAYOUTS.items()},
}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_line_with_what_is_and_what_must_be(name):
    changes, line = CASES[name]
    assert shape_problems(toy(**changes)) == [f"Toy.{line}"]


def test_several_mistakes_are_several_lines():
    wrong = toy(step=outcome(reward=jnp.zeros(2), truncated=jnp.zeros(2, bool)))
    assert [line.partition(" is ")[0] for line in shape_problems(wrong)] == [
        "Toy.step: Outcome.reward",
        "Toy.step: Outcome.truncated",
    ]


def test_a_class_of_its_own_must_be_derived_from_team_env():
    class Toy:
        """Not derived."""

    assert shape_problems(Toy()) == ["Toy must be derived from qmix_jax.envs.base.TeamEnv"]


# --- mistakes in Python ------------------------------------------------------------------------------------------


def if_on_an_array(self, state):
    if state.place > 1:
        return Toy.see(self, state)
    return None


def number_of_python(self, state):
    return jnp.full(3, float(state.place))


def numpy_of_an_array(self, state):
    return np.sqrt(state.place)


def item_of_a_list(self, state):
    return [1, 2, 3][state.time]


def traced_mask(self, state):
    return jnp.arange(3)[jnp.arange(3) < state.time]


def item_assignment(self, state):
    agents = jnp.zeros((2, 3))
    agents[0] = state.place
    return agents


PYTHON = {
    if_on_an_array: (
        "if state.place > 1:",
        "a Python if, while, and, or, not or assert on a traced array;",
    ),
    number_of_python: ("return jnp.full(3, float(state.place))", "float(), int() or item() of a traced array"),
    numpy_of_an_array: ("return np.sqrt(state.place)", "a NumPy function of a traced array; use jax.numpy"),
    item_of_a_list: ("return [1, 2, 3][state.time]", "a traced array as a Python integer, such as the index of a list"),
    traced_mask: ("return jnp.arange(3)[jnp.arange(3) < state.time]", "a traced mask as an index"),
    item_assignment: ("agents[0] = state.place", "TypeError: JAX arrays are immutable"),
}


@pytest.mark.parametrize("see", PYTHON, ids=lambda see: see.__name__)
def test_an_exception_becomes_a_line_with_the_file_and_the_line(see):
    code, meaning = PYTHON[see]
    (line,) = shape_problems(toy(see=see))
    number = next(i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if text.strip() == code)
    assert line.startswith(f"Toy.reset: {meaning}")
    assert line.endswith(f"test_check_env.py:{number}: {code})")


def test_random_numbers_of_python_are_impure():
    noisy = toy(see=rename(agents=lambda seen: seen.agents + random.random()))
    assert [line.partition(", but must be pure: random")[0] for line in shape_problems(noisy)] == [
        "Toy.reset does something else when it is called again",
        "Toy.step does something else when it is called again",
    ]


def test_a_step_that_counts_in_an_attribute_is_impure():
    def step(self, key, state, action):
        self.count = getattr(self, "count", 0) + 1
        return Toy.step(self, key, state, action)

    assert shape_problems(toy(step=step)) == ["Toy.step changes self.count, but must be pure: keep it in the state"]


IN_PLACE = {
    "a list": ([], lambda log: log.append(1)),
    "a list in a dict": ({"steps": [0]}, lambda log: log["steps"].append(1)),
    "a list of random keys": ([*jax.random.split(jax.random.key(0))], lambda log: log.reverse()),
    "a set": (set(), lambda log: log.add(len(log))),
    "an array": (np.zeros(3), lambda log: np.add(log, 1, out=log)),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_an_attribute_is_not_changed_in_place_either(name):
    log, change = IN_PLACE[name]

    def step(self, key, state, action):
        change(self.log)
        return Toy.step(self, key, state, action)

    wrong = toy(step=step)
    wrong.log = log
    assert shape_problems(wrong) == ["Toy.step changes self.log, but must be pure: keep it in the state"]


def test_what_is_computed_once_and_for_all_may_be_an_attribute():
    def reset(self, key):
        if not hasattr(self, "table"):
            self.table = np.arange(3)
        return Toy.reset(self, key)

    assert shape_problems(toy(reset=reset)) == []


def test_a_traced_array_in_an_attribute_is_found_where_it_is_kept_and_where_it_is_used():
    def reset(self, key):
        state, observation = Toy.reset(self, key)
        self.goal = state.place
        return state, observation

    def step(self, key, state, action):
        return Toy.step(self, key, state._replace(place=state.place - self.goal), action)

    assert shape_problems(toy(reset=reset, step=step)) == [
        "Toy.reset changes self.goal, but must be pure: keep it in the state",
        "Toy.step: an array that an earlier call left in an attribute or global; put it into the state",
    ]


# --- Traced settings ---------------------------------------------------------------------------------------------


class Traceable(Toy):
    """A toy with a number that every step's reward is more."""

    def __init__(self, bonus: Traced[Share] = 0.05, size: int = 2):
        self.bonus, self.size, self.draw = bonus, size, lambda key: jax.random.uniform(key)

    def step(self, key, state, action):
        state, observation, outcome = super().step(key, state, action)
        return state, observation, outcome._replace(reward=outcome.reward + self.number())

    def number(self):
        return self.bonus


class Doubled(Traceable):
    def __init__(self, bonus: Traced[Share] = 0.05, size: int = 2):
        super().__init__(bonus, size)
        self.table = {"double": np.full(size, 2 * bonus)}

    def number(self):
        return self.table["double"][0]


class Followed(Doubled):
    def with_numbers(self, numbers):
        return super().with_numbers({**numbers, "table": {"double": jnp.full(self.size, 2 * numbers["bonus"])}})


class Renamed(Traceable):
    def __init__(self, bonus: Traced[Share] = 0.05):
        self._bonus = bonus

    def number(self):
        return self._bonus


class Branching(Traceable):
    def number(self):
        if self.bonus > 0:
            return 1.0
        return 0.0


class Counting(Traceable):
    """The number is a part of the state, which step rounds."""

    def __init__(self, start: Traced[Count] = 3):
        super().__init__()
        self.start = start

    def reset(self, key):
        state, observation = super().reset(key)
        return (state, jnp.array(self.start)), observation

    def step(self, key, state, action):
        after, *rest = super().step(key, state[0], action)
        return (after, jnp.round(state[1]).astype(int)), *rest


def made(cls, **arguments):
    """What a run checks: the environment, and the settings that made it."""
    settings = constructor_settings(cls)(**arguments)
    return shape_problems(cls(**vars(settings)), settings)


def test_a_traced_setting_may_be_an_attribute_or_what_with_numbers_computes():
    assert made(Traceable) == made(Traceable, bonus=1) == made(Followed) == problems(Traceable()) == []


@pytest.mark.parametrize(("cls", "attribute"), [(Doubled, "table"), (Renamed, "_bonus")])
def test_an_attribute_that_is_computed_from_a_traced_setting_needs_with_numbers(cls, attribute):
    line = f"{cls.__name__}.{attribute} is computed from bonus, which is Traced: override with_numbers, or drop Traced"
    assert made(cls) == made(cls, bonus=1) == [line]


def test_a_traced_setting_decides_no_branch():
    (line,) = made(Branching)
    assert shape_problems(Branching()) == [line], "an object says how it was made by its attributes"
    advice = "Branching.bonus is Traced, but decides a branch, a shape or a dtype: a Python if, while, and, or"
    assert line.startswith(advice) and line.endswith(": if self.bonus > 0:); or drop Traced")


def test_a_traced_setting_is_a_float_wherever_it_goes():
    (line,) = made(Counting)
    assert line.startswith("Counting.start is Traced, but decides a branch, a shape or a dtype: ")
    assert "return states of different dtypes" in line


def test_training_refuses_a_traced_setting_that_would_be_ignored():
    with pytest.raises(ConfigError, match=r"^Renamed\._bonus is computed from bonus, which is Traced"):
        experiment.check(from_mapping({"env": {"name": "test_check_env:Renamed"}, "algorithm": {"name": "vdn"}}))


# --- variants ----------------------------------------------------------------------------------------------------


class Sized(Toy):
    """A toy in several sizes."""

    variant = "size"
    variants = ("small", "large")

    def __init__(self, size: Literal["small", "large"] = "small", depth: int = 1):
        if size == "large" and depth < 3:
            raise ValueError(f"depth={depth} is too little")


VARIANTS = {
    "no setting": ({"variant": "map"}, "variant is 'map', but must be an argument of the constructor: size, depth"),
    "without a setting": (
        {"variant": None},
        "variants is ('small', 'large'), but variant, the setting that has these values, is None",
    ),
    "numbers": ({"variants": (1, 2)}, "variants is (1, 2), but must be a tuple of words"),
    "of another type": (
        {"variants": ("small", "huge")},
        "variants has 'huge', but env.size=huge is not known; choose one of small, large",
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_values_of_a_setting(name):
    changes, line = VARIANTS[name]
    assert shape_problems(type("Sized", (Sized,), changes)()) == [f"Sized.{line}"]


# --- numbers of Python and NumPy ---------------------------------------------------------------------------------


class Plain(Toy):
    """Its episodes start with numbers of Python and NumPy, which `step` and `compress` use as JAX arrays."""

    def reset(self, key):
        _, observation = super().reset(key)
        return ToyState(0, np.float32(0.0)), observation

    def step(self, key, state, action):
        return super().step(key, state._replace(time=state.time.at[()].add(0)), action)

    def compress(self, state, observation):
        return observation.agents, state.place.astype(jnp.bfloat16)

    def decompress(self, compact):
        return self.see(ToyState(None, compact[0][0, 0]))


def test_a_state_may_start_as_numbers_of_python_and_numpy():
    assert problems(Plain()) == []
    assert bytes_per_step(Plain()) == 24 + 2 + 2 + 4 + 3, "2 x 3 numbers and the place; actions, reward and flags"
    experiment.check(from_mapping({"env": {"name": "test_check_env:Plain"}, "algorithm": {"name": "vdn"}}))


# --- mistakes that random play shows -----------------------------------------------------------------------------


def beginnings(lines):
    """The lines up to where and how often."""
    return [line.partition(" (")[0] for line in lines]


def test_a_right_environment_has_no_problems():
    assert problems(Toy()) == []


def test_a_key_that_is_used_twice_is_found():
    def reset(self, key):
        state, observation = Toy.reset(self, key)
        return state._replace(place=-jax.random.exponential(key)), observation

    (line,) = problems(toy(reset=reset))
    assert line.startswith("Toy.reset: a key is used twice, which gives the same random numbers again; ")
    assert line.endswith(": return state._replace(place=-jax.random.exponential(key)), observation)")


def test_a_key_in_the_state_that_reset_has_used_is_found_in_step():
    def reset(self, key):
        state, observation = Toy.reset(self, key)
        return (state, key), observation

    def step(self, key, state, action):
        after, *rest = Toy.step(self, state[1], state[0], action)
        return (after, key), *rest

    (line,) = problems(toy(reset=reset, step=step))
    assert line.startswith("Toy.step: a key is used twice")


@pytest.mark.parametrize("renews", [False, True])
def test_a_key_in_the_state_must_be_renewed_by_every_step(renews):
    def reset(self, key):
        key, place_key = jax.random.split(key)
        state, observation = Toy.reset(self, place_key)
        return (state, key), observation

    def step(self, key, state, action):
        own, after_key = jax.random.split(state[1]) if renews else (state[1], state[1])
        after, *rest = Toy.step(self, own, state[0], action)
        return (after, after_key), *rest

    line = "Toy.step: a key is used twice, which gives the same random numbers again; use jax.random.split"
    assert beginnings(problems(toy(reset=reset, step=step))) == [line][renews:]


class Bounded(Toy):
    """Its layout bounds the place, which all three numbers are."""

    bounds = ((0, 3.2), (None, None), (0, None))

    def layout(self):
        features = tuple(Feature(f"place_{i}", *bounds) for i, bounds in enumerate(self.bounds))
        return Layout({"own": features}, (AgentLayout((("own", "own"),), ("walk",) * 4),) * 2, "always")


def test_observations_lie_within_the_bounds_of_the_layout():
    assert problems(Bounded()) == []


def test_a_number_beyond_its_bounds_is_told_by_its_name():
    wrong = type("Toy", (Bounded,), {"bounds": ((0, 1), (None, 3.2), (0.5, None))})()
    (line,) = problems(wrong)
    found, must = line.split(", but ")
    assert re.fullmatch(r"Toy\.layout: 'place_0' of agent 'scout' is from 0\.0\d+ to 2\.\d+", found)
    assert must == "must be from 0 to 1, as the layout says (and 3 more numbers)"


def test_what_cannot_be_vmapped_is_one_line():
    def reset(self, key):
        state, observation = Toy.reset(self, key)
        return state._replace(place=jax.pure_callback(np.sin, state.place, state.place)), observation

    (line,) = problems(toy(reset=reset))
    assert line.startswith("Toy: ") and "vmap" in line and "test_check_env.py:" in line


def test_numbers_and_legal_actions_are_checked_at_every_time_for_every_agent():
    def see(self, state):
        agents, available, whole = Toy.see(self, state)
        agents = agents.at[1, 2].set(jnp.where(state.time == 2, jnp.nan, 0.0))
        available = available.at[0].set(state.time != 1).at[1, 0].set(state.time > 0)
        return Observation(agents, available, whole.at[0].set(1 / state.time))

    def step(state, observation, outcome):
        rewards = {"reward": jnp.log(state.time - 2.0), "truncated": state.time >= 4}
        metrics = {"food": jnp.where(state.time == 1, jnp.inf, 0.0), "win_rate": jnp.array(1.0)}
        return state, observation, outcome._replace(metrics=metrics, terminated=state.time >= 4, **rewards)

    def decompress(self, compact):
        return compact._replace(agents=jnp.minimum(compact.agents, jnp.array([[jnp.inf], [-0.5]])))

    lines = problems(toy(see=see, step=after_step(step), decompress=decompress))
    assert beginnings(lines) == [
        "Toy.reset: Observation.state is NaN or infinite at time 0",
        "Toy.reset: spec.idle_action = 0 is not legal at time 0 for agent 'digger'",
        "Toy.step: Observation.agents is NaN or infinite at time 2 for agent 'digger'",
        "Toy.step: Observation.available has no legal action at time 1 for agent 'scout'",
        "Toy.decompress: Observation.agents is another one at time 0 for agent 'digger'",
        "Toy.step: Outcome.reward is NaN or infinite at time 1",
        "Toy.step: Outcome.metrics['food'] is NaN or infinite at time 1",
        "Toy.step: Outcome.terminated and Outcome.truncated are both true at time 4",
        "Toy.step: Outcome.metrics['win_rate'] adds up to 4 to 4 over the steps of an episode, but must to a share, "
        "from 0 to 1",
    ]
    assert "(1,200 of 4,800)" in lines[2], "time 2 of each of 75 episodes of 4 steps with 16 seeds"


def never_idle(observation, state, available):
    return available & (jnp.arange(4) > 0)


def test_a_shield_may_forbid_the_idle_action():
    assert problems(Shielded(Toy(), "test_check_env:never_idle")) == []


def test_an_episode_must_end_by_the_limit_and_the_same_key_must_give_the_same():
    def step(state, observation, outcome):
        noise = jax.pure_callback(
            lambda _: np.float32(time.perf_counter()), outcome.reward, state.time, vmap_method="sequential"
        )
        ends = {"terminated": state.time == 7, "truncated": state.time < 0}
        return state, observation, outcome._replace(reward=noise, metrics={}, **ends)

    assert beginnings(problems(toy(step=after_step(step)))) == [
        "Toy.step: an episode has not ended at time 4, but must by spec.episode_limit = 4: terminated, or else "
        "truncated",
        "Toy.step: Outcome.reward is another one at time 1",
    ]


def test_episodes_must_not_all_end_at_once():
    wrong = toy(step=after_step(lambda s, o, u: (s, o, u._replace(terminated=s.time > 0, truncated=s.time < 0))))
    assert problems(wrong) == [
        "Toy.step: every episode ends at time 1, but must be able to last spec.episode_limit = 4"
    ]


def test_the_shortest_episode_is_compared_with_three_in_a_row():
    ends = after_step(lambda s, o, u: (s, o, u._replace(terminated=s.time == 2, truncated=s.time < 0)))
    assert problems(toy(step=ends, shortest_episode=3)) == [
        "Toy.spec.shortest_episode is 3, but must be 2 at most, which is what 3 episodes in a row took on average"
    ]


# --- what training and the command do with it --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_registered_environment_has_no_problems(name):
    settings = SmaxConfig(map="3m") if name == "smax" else ENVIRONMENTS[name].settings()
    assert problems(make_env(EnvConfig(name, settings))) == []


def test_a_team_as_one_agent_has_no_problems():
    assert problems(JointTeam(TwoStep(TwoStepConfig()))) == []


def test_of_an_environment_in_a_wrapper_the_mistakes_of_its_own_are_told():
    joint = JointTeam(Toy())
    joint.wrapped = toy(step=outcome(reward=jnp.array(1)))
    assert shape_problems(joint) == [f"Toy.step: Outcome.reward is int32 of shape (), {REWARD}"]


def test_training_refuses_an_environment_with_wrong_shapes_also_for_joint_actions(monkeypatch):
    monkeypatch.setattr(experiment, "make_env", lambda config: toy(step=outcome(reward=jnp.array(1))))
    qmix = tiny()
    for config in (qmix, replace(qmix, algorithm=AlgorithmConfig("joint", {}))):
        with pytest.raises(ConfigError, match=r"^Toy\.step: Outcome\.reward is int32 of shape \(\), but .* reward\)$"):
            experiment.check(config)


def test_of_several_mistakes_training_tells_the_first_and_how_to_see_the_others():
    wrong = toy(step=outcome(reward=jnp.zeros(2), terminated=jnp.zeros(2, bool), truncated=jnp.zeros(2, bool)))
    with pytest.raises(ConfigError, match=r"reward\) \(and 2 more: qmix-jax check-env env=toy\)$"):
        refuse_wrong_shapes(wrong, "toy")


def test_the_reserved_names_of_metrics_are_those_of_a_row_and_the_length_of_an_episode(probe):
    one = np.ones(1)
    sums = EpisodeSums(one, one, one, {"win_rate": one})
    metrics = ChunkMetrics(sums, LossMetrics(*[one] * len(LossMetrics._fields)), one, sums)
    row = make_row(Program.make(tiny(), probe), Clock(jnp.array(4)), metrics, Seconds(1.0, 1.0, 1.0), Usage())
    names = {name.partition("/")[2] for name in [*row, FROZEN, ENVIRONMENT_NAN] if "/" in name}
    assert names - {"win_rate"} | {"length"} == RESERVED_METRICS


def test_replay_bytes_are_counted(probe):
    # 3 numbers and 4 legal actions for each of 2 agents, 3 of the state; 2 actions, the reward, 3 flags
    assert bytes_per_step(probe) == 4 * 6 + 8 + 4 * 3 + 2 + 4 + 3
    assert bytes_per_step(probe, "bfloat16") == 2 * 6 + 8 + 2 * 3 + 2 + 4 + 3


def test_random_play_is_summed_by_episode(probe):
    sums = play(probe, jax.random.key(0)).episodes
    for lengths, returns in zip(sums["length"], sums["return"], strict=True):
        assert returns == [length * (length + 1) / 2 for length in lengths], "the reward of step t is t + 1"
    assert {length for lengths in sums["length"] for length in lengths} == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_ends_by_a_limit_and_different_starts_are_counted():
    found = play(Toy(), jax.random.key(0))
    lengths = [length for row in found.episodes["length"] for length in row]
    assert 0 < found.truncated < 1 and found.starts == (64, 64)
    assert found.truncated * len(lengths) <= lengths.count(4.0), "who had not won after four steps was stopped"
    still = play(toy(reset=lambda self, key: Toy.reset(self, jax.random.key(0))), jax.random.key(0))
    assert still.starts == (1, 64), "a reset that ignores its key"


def test_a_step_that_resets_by_itself_shows_by_the_steps_from_an_end_to_the_next():
    def resets(state, seen, outcome):
        ended = outcome.terminated | outcome.truncated
        return jax.tree.map(lambda leaf: jnp.where(ended, 0, leaf), state), seen, outcome

    assert set(speed(Toy(), 4).to_next_end) == {1.0}, "what has ended remains so"
    assert min(speed(toy(step=after_step(resets)), 4).to_next_end) > 1


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Runs check-env in an empty folder, with the devices as they are."""
    monkeypatch.setattr(startup, "start_jax", lambda devices: None)
    monkeypatch.chdir(tmp_path)

    def run(line):
        status = cli.main(["check-env", *line.split()])
        assert list(tmp_path.iterdir()) == [], "nothing is left behind"
        return status

    return run


def test_the_command_prints_what_is_to_be_known(command, capsys):
    assert command("env=matrix env.payoff=[[3,3],[3,3]]") == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "matrix game: no mistake found, also in 4,800 random steps"
    rows = {line[2:31].strip(): line[31:].strip() for line in lines}
    assert rows.pop("steps a second alone").endswith(" (32 environments, cpu)")
    assert rows == {
        "agents": "2: agent_0, agent_1",
        "numbers an agent sees": "1",
        "actions": "2",
        "action that does nothing": "none",
        "numbers of the state": "1",
        "episode limit (steps)": "1",
        "bytes a step in replay": "25 (float32)",
        "steps from an end to the next": "1 (1 to 1)",
        "different starts": "1 of 64",
        "random episodes": "4,800 finished, 0 % of them by a limit",
        "random length": "1 (1 to 1)",
        "random return": "3 (3 to 3)",
    }


def test_shares_are_in_percent_and_other_sums_have_a_range():
    assert check_env._summary([0.0, 1.0, 1.0, 1.0], is_share=True) == "75 %"
    assert check_env._summary([0.0, 1.0, 1.0, 4.0], is_share=False) == "1.5 (0 to 4)"
    assert check_env._summary([], is_share=True) == "no episode ended"


def test_the_command_prints_every_mistake_and_exits_with_2(command, capsys, monkeypatch):
    wrong = toy(step=outcome(reward=jnp.array(1), terminated=jnp.array(1)))
    monkeypatch.setattr(check_env, "make_env", lambda config: wrong)
    assert command("env=probe") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        f"qmix-jax: error: Toy.step: Outcome.reward is int32 of shape (), {REWARD}",
        "qmix-jax: error: Toy.step: Outcome.terminated is int32 of shape (), but must be a JAX array, bool of shape ()",
    ]


def test_a_painter_that_does_not_exist_is_found_before_the_film_needs_it(command, capsys, monkeypatch):
    monkeypatch.setattr(check_env, "make_env", lambda config: toy(painter="qmix_jax.envs.smax.painter:paint_all"))
    assert command("env=probe") == 2
    error = (
        "qmix-jax: error: Toy.painter=qmix_jax.envs.smax.painter:paint_all: qmix_jax.envs.smax.painter has no function"
    )
    assert capsys.readouterr().err.startswith(error)


class Raising(Toy):
    def __init__(self):
        raise KeyError("map")


def test_a_constructor_that_raises_is_one_line(command, capsys):
    assert command("env=test_check_env:Raising") == 2
    line = capsys.readouterr().err
    assert line.startswith("qmix-jax: error: env=test_check_env:Raising cannot be made: KeyError: 'map' (")


def test_a_variant_that_cannot_be_made_is_told(command, capsys):
    assert command("env=test_check_env:Sized env.depth=3") == 2, "of the other settings the defaults count"
    line = (
        "qmix-jax: error: Sized.variants has 'large', but env=test_check_env:Sized cannot be made: ValueError: depth=1 "
    )
    assert capsys.readouterr().err.startswith(line)
