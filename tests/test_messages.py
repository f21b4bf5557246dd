"""Messages of a run: command lines that compose to the same settings, and advice after a NaN."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from qmix_jax.build import from_mapping, name_of
from qmix_jax.cli.compose import compose
from qmix_jax.envs.two_step import TwoStep, TwoStepConfig
from qmix_jax.run import messages


def config_of(line):
    return from_mapping(compose(shlex.split(line)))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("env.map=3m total_env_steps=1e6", ["env.map=3m", "total_env_steps=1000000"]),
        ("env=matrix 'env.payoff=[[1,0],[0,2]]'", ["env=matrix", "env.payoff=[[1,0],[0,2]]"]),
        ("env=predator_prey env.punishment=-1.5", ["env=predator_prey", "env.punishment=-1.5"]),
        ("env=penalty env.k=-25", ["env=penalty", "env.k=-25.0"]),
        ("env=mpe env.task=simple_reference", ["env=mpe", "env.task=simple_reference"]),
        ("env=mpe total_env_steps=2e6", ["env=mpe"]),
        ("env.scale_state=false env.starts_per_rollout=5", ["env.starts_per_rollout=5", "env.scale_state=false"]),
        ("env.shield=json:dumps num_seeds=3", ["env.shield=json:dumps", "num_seeds=3"]),
        ("learner.gamma=0.9 checkpoint.every_env_steps=null", ["learner.gamma=0.9"]),
        ("agent=transformer agent.num_heads=2", ["agent=transformer", "agent.num_heads=2"]),
        ("+preset=pymarl", None),
        ("+preset=demo", None),
    ],
)
def test_the_same_settings_again_compose_to_the_same_run(line, words):
    config = config_of(line)
    again = messages.same_settings(config)
    assert words is None or sorted(again) == sorted(words)
    composed = config_of(messages.command_line([*again, "algorithm=vdn", "seed=3"]))
    kept = {name: getattr(config, name) for name in ("algorithm", "seed", "checkpoint")}
    assert replace(composed, **kept) == config


@pytest.mark.parametrize(("rate", "is_repeated"), [("share", True), ("null", False), ("1e-5", False)])
def test_a_share_of_the_learning_rate_without_effect_is_not_repeated(rate, is_repeated):
    config = config_of(f"learner.final_learning_rate={rate} learner.final_learning_rate_share=0.5")
    again = messages.same_settings(config)
    assert ("learner.final_learning_rate_share=0.5" in again) == is_repeated
    composed = config_of(messages.command_line([*again, "algorithm=qmix"]))
    assert composed.learner.last_learning_rate == config.learner.last_learning_rate


class Sized(TwoStep):
    def __init__(self, size: int, share: float = 0.5):
        super().__init__(TwoStepConfig())


def test_a_setting_without_a_default_is_repeated():
    config = from_mapping({"env": {"name": f"{__name__}:Sized", "size": 3}, "algorithm": {"name": "vdn"}})
    assert messages.same_settings(config) == [f"env={__name__}:Sized", "env.size=3"]


def test_nothing_is_suggested_after_a_run_of_an_object_that_only_python_has():
    vdn, given = {"name": "vdn"}, Sized(3)
    config = from_mapping({"env": {"name": name_of(given)}, "algorithm": vdn}, {"env": given})
    assert config.env.name.endswith("(made in Python)") and messages.next_steps(config, Path()) == ""
    assert "num_seeds=4" in messages.next_steps(from_mapping({"env": {"name": "two_step"}, "algorithm": vdn}), Path())


def test_another_map_is_not_the_one_of_the_run():
    mixer = {"algorithm": {"name": "qmix"}}
    small, large = (from_mapping({"env": {"name": "smax", "map": name}, **mixer}) for name in ("3m", "2s3z"))
    assert messages.next_steps(small, Path()).count("another map") == 0
    assert "env.map=3m total_env_steps=1e6" in messages.next_steps(large, Path())


def a_row(**values):
    return {f"train/{name}": [0.0, value] for name, value in values.items()}


GAME = config_of("env=matrix")
USUAL = {"loss": 0.5, "grad_norm": 1.0, "q_mean": 3.0, "target_mean": 3.0}


@pytest.mark.parametrize(
    ("config", "before", "row", "says", "not_a_word_of"),
    [
        (GAME, USUAL, {}, ["learning_rate", "max_grad_norm"], ["reward_scale", "adam_epsilon", "env"]),
        (GAME, {**USUAL, "target_mean": -2e4}, {}, ["learner.reward_scale or env.payoff"], ["adam_epsilon"]),
        (GAME, {**USUAL, "grad_norm": 1e-6}, {}, ["learner.adam_epsilon"], ["reward_scale"]),
        (GAME, USUAL, {"return": 1e30}, ["reward_scale"], []),
        (GAME, {}, {}, ["learning_rate", "adam_epsilon", "reward_scale", "env.payoff", "env=matrix"], []),
        (config_of("env=smax"), {}, {}, ["the rewards and observations of env=smax"], ["payoff"]),
        (config_of("env=predator_prey"), {}, {"return": None}, ["env.punishment"], []),
        (config_of("env=smax algorithm.state_norm=none"), USUAL, {}, ["algorithm.state_norm=layer_norm"], []),
    ],
)
def test_after_nan_the_clues_say_where_to_look(config, before, row, says, not_a_word_of):
    text = messages.what_to_look_at(config, a_row(**before), a_row(**row), seed=1, is_environments=False)
    assert "\n" not in text and "learner.learning_rate" in text
    assert all(word in text for word in says), text
    assert not any(word in text for word in not_a_word_of), text


def test_after_an_environments_nan_no_setting_of_the_learner_is_named():
    text = messages.what_to_look_at(GAME, a_row(**USUAL), a_row(), seed=1, is_environments=True)
    wanted = "env.payoff and the rewards and observations of env=matrix; no setting of the learner cures them"
    assert text == wanted
