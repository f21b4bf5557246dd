"""The schedule of a run before it starts: refused where nothing is learnt, warned of events after its end."""

import jax.numpy as jnp
import pytest
from conftest import tiny

from qmix_jax.build import from_mapping
from qmix_jax.cli.compose import compose
from qmix_jax.cli.conf import choices
from qmix_jax.learning.trainer import multiples_passed
from qmix_jax.run import experiment, host_loop, plan
from qmix_jax.settings import ConfigError


def updates(config) -> int:
    """The run's updates, iteration by iteration as the trainer counts them."""
    step, learner = config.iteration_env_steps, config.learner
    ends = jnp.arange(step, config.trained_env_steps + 1, step)
    due = multiples_passed(learner.env_steps_per_update, ends - step, ends)
    return int(jnp.sum(jnp.where(ends >= learner.start_env_steps, due, 0)))


@pytest.mark.parametrize("start", [0, 1, 32, 33, 100, 191, 192, 193])
@pytest.mark.parametrize("every", [1, 7, 16, 31.5, 96, 192, 193])
def test_updates_are_counted_as_the_trainer_makes_them(start, every):
    config = tiny(learner={"start_env_steps": start, "env_steps_per_update": every})  # 192 steps
    assert plan.learning(config).updates == updates(config)


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        ({"start_env_steps": 193}, {"start_env_steps": 192}),
        ({"env_steps_per_update": 193}, {"env_steps_per_update": 192}),
        ({"start_env_steps": 192, "env_steps_per_update": 150}, {"start_env_steps": 192, "env_steps_per_update": 32}),
        ({"batch_size": 17}, {"batch_size": 16}),  # of 128 / 8 sequences
    ],
)
def test_a_run_that_could_learn_nothing_is_refused_with_values_that_work(changes, right):
    with pytest.raises(ConfigError) as refused:
        plan.check(tiny(learner=changes))
    said = str(refused.value)
    assert "\n" not in said and all(f"learner.{name}=" in said for name in changes)
    plan.check(tiny(learner=right))
    advised = [word.rstrip(";,") for word in said.rpartition("set ")[2].split() if "=" in word]
    assert len(advised) > 1
    for word in advised:
        name, _, value = word.partition("=")
        *group, last = name.split(".")
        setting = {last: float(value)}
        merged = {group[0]: {**changes, **setting} if group[0] == "learner" else setting} if group else setting
        plan.check(tiny(**({} if merged.get("learner") else {"learner": changes}) | merged))


EVERYTHING_COMES = {
    "total_env_steps": 192,
    "exploration": {"decay_env_steps": 192},
    "evaluation": {"every_env_steps": 192},
    "target": {"every_env_steps": 192},
    "learner": {"start_env_steps": 192, "batch_size": 16},
}


def warnings_of(**changes) -> list[str]:
    settings = {name: dict(value) if isinstance(value, dict) else value for name, value in EVERYTHING_COMES.items()}
    for name, value in changes.items():
        settings[name] = {**settings.get(name, {}), **value} if isinstance(value, dict) else value
    return plan.warnings(tiny(**settings))


def test_a_run_that_reaches_every_event_just_in_time_gives_no_warning():
    assert warnings_of() == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"exploration": {"decay_env_steps": 193}}, "exploration.decay_env_steps=193"),
        ({"evaluation": {"every_env_steps": 193}}, "evaluation.every_env_steps=193"),
        ({"target": {"every_env_steps": 193}}, "target.every_env_steps=193"),
        ({"target": {"every_env_steps": 160}}, "target.every_env_steps=160"),  # before anything is learnt
        ({"learner": {"batch_size": 25}, "replay": {"capacity": 1024}}, "learner.batch_size=25"),  # of 192 / 8
    ],
)
def test_an_event_after_the_end_of_the_run_is_a_warning_of_one_line(changes, said):
    (line,) = warnings_of(**changes)
    assert said in line and "\n" not in line and "192" in line


@pytest.mark.parametrize(
    "changes",
    [
        {"exploration": {"start": 0.5, "finish": 0.5, "decay_env_steps": 10**6}},
        {"target": {"mode": "soft", "every_env_steps": 10**6}},
        {"target": {"mode": "none", "every_env_steps": 10**6}},
        {"learner": {"batch_size": 24}, "replay": {"capacity": 1024}},
        {"learner": {"batch_size": 2}, "replay": {"capacity": 0}},
    ],
)
def test_settings_without_such_an_event_give_no_warning(changes):
    assert warnings_of(**changes) == []


def test_an_epsilon_that_does_not_reach_its_end_says_how_far_it_comes():
    (line,) = warnings_of(exploration={"start": 1.0, "finish": 0.1, "decay_env_steps": 384})
    assert line.startswith("epsilon ends at 0.55 instead of exploration.finish=0.1")


@pytest.mark.parametrize(("total", "said"), [(192, []), (160, ["total_env_steps=160 becomes 192: 3 x 64, in whole"])])
def test_rounding_up_is_reported(total, said):
    told = plan.rounding(tiny(total_env_steps=total))
    assert [line[: len(begin)] for line, begin in zip(told, said, strict=True)] == said


def test_warnings_come_before_training(tmp_path, monkeypatch, capsys):
    def train(*args):
        raise ConfigError("begun")

    monkeypatch.setattr(host_loop, "train", train)
    config = tiny(total_env_steps=160, exploration={"decay_env_steps": 200}, logging={"display": "plain"})
    with pytest.raises(ConfigError, match="begun"):
        experiment.train(config, tmp_path, {})
    out, err = capsys.readouterr()
    assert "\ntotal_env_steps=160 becomes 192: 3 x 64, in whole rollouts of 32\n" in out
    assert err.startswith("warning: epsilon ends at 0.14") and err.count("\n") == 1


CHOICES = [*(f"env={name}" for name in choices("env")), *(f"+preset={name}" for name in choices("preset"))]


@pytest.mark.parametrize("choice", CHOICES)
def test_no_choice_of_settings_is_refused_or_warned_of_and_none_trains_much_longer_than_it_says(choice):
    config = from_mapping(compose([choice]))
    plan.check(config)
    assert plan.warnings(config) == []
    assert config.trained_env_steps < config.total_env_steps + config.num_chunks * config.iteration_env_steps
    assert config.trained_env_steps <= 1.03 * config.total_env_steps
