"""Messages of a run: command lines that compose to the same settings, and advice after a NaN."""

import shlex
from dataclasses import replace

import pytest

from qmix_jax.build import from_mapping
from qmix_jax.cli.compose import compose
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
        ("env.shield=operator:and_ num_seeds=3", ["env.shield=operator:and_", "num_seeds=3"]),
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
        (
            GAME,
            USUAL,
            {"return": float("nan")},
            ["env.payoff and the rewards and observations of env=matrix, which are not"],
            [],
        ),
        (GAME, {}, {}, ["learning_rate", "adam_epsilon", "reward_scale", "env.payoff", "env=matrix"], []),
        (config_of("env=smax"), {}, {}, ["the rewards and observations of env=smax"], ["payoff"]),
        (config_of("env=predator_prey"), {}, {"return": None}, ["env.punishment"], []),
        (config_of("env=smax algorithm.state_norm=none"), USUAL, {}, ["algorithm.state_norm=layer_norm"], []),
    ],
)
def test_after_nan_the_clues_say_where_to_look(config, before, row, says, not_a_word_of):
    text = messages.what_to_look_at(config, a_row(**before), a_row(**row), seed=1)
    assert text.startswith("Look at ") and "\n" not in text and "learner.learning_rate" in text
    assert all(word in text for word in says), text
    assert not any(word in text for word in not_a_word_of), text
