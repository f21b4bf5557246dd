"""What to do next: the settings to look at after NaN, and the command line of a run's own settings."""

import json
import math
import shlex
from dataclasses import fields
from typing import Any

from qmix_jax.build import from_mapping
from qmix_jax.config import Config, by_name
from qmix_jax.envs import DEFAULT_ENVIRONMENT

LARGE = 1e3
"""Values and returns beyond this make loss and gradient overflow soon."""
SMALL = 1e-3
"""Gradients below this are divided by little more than learner.adam_epsilon."""
PAID = ("payoff", "punishment", "k")
"""Settings of environments that are rewards themselves."""
NOT_KEPT = ("algorithm", "seed", "devices", "checkpoint", "logging")
"""Settings, and groups of them, in which a comparable run may differ."""


def after_nan(config: Config, before: dict, row: dict, seed: int) -> str:
    """The settings to look at, the likeliest first, where the loss of a run's seed number `seed` became NaN.

    Args:
        before: The row of metrics before, with a finite loss; empty where there is none.
        row: The row with NaN.
    """

    def of_seed(row: dict, *names: str) -> list[float]:
        values = [row[f"train/{name}"][seed] for name in names if row.get(f"train/{name}")]
        return [value for value in values if value is not None]

    paid = [f"env.{each.name}" for each in fields(config.env.settings) if each.name in PAID]
    place = f"what env={config.env.name} pays and shows"
    returns = of_seed(row, "return")
    sizes = [*of_seed(before, "q_mean", "target_mean"), *[config.learner.reward_scale * x for x in returns]]
    is_large = any(abs(size) > LARGE for size in sizes)
    is_small = any(norm < SMALL for norm in of_seed(before, "grad_norm"))
    is_paid_nan = not all(map(math.isfinite, returns))
    advice = {
        " and ".join([*paid, place]) + ", which is not finite": is_paid_nan,
        " or ".join(["a lower learner.reward_scale", *paid]) + ": values are large": is_large and not is_paid_nan,
        "a lower learner.learning_rate or learner.max_grad_norm": True,
        "a larger learner.adam_epsilon": is_small or not before,
        "algorithm.state_norm=layer_norm": config.algorithm.options.get("state_norm") == "none",
        ", ".join(["learner.reward_scale", *paid, place]): not (before or is_paid_nan or is_large),
    }
    return "Look at " + "; ".join(text for text, applies in advice.items() if applies)


def same_settings(config: Config) -> list[str]:
    """The overrides that choose the environment, and all else in which a run differs from its defaults but for the
    algorithm and for what makes no difference to a comparison.
    """
    plain = by_name(from_mapping({"env": {"name": config.env.name}, "algorithm": {"name": config.algorithm.name}}))
    chosen = {name: value for name, value in by_name(config).items() if name.split(".")[0] not in NOT_KEPT}
    changed = [f"{name}={_in_hydras_words(value)}" for name, value in chosen.items() if value != plain.get(name)]
    return [*([] if config.env.name == DEFAULT_ENVIRONMENT else [f"env={config.env.name}"]), *changed]


def _in_hydras_words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def command_line(overrides: list[str]) -> str:
    """Overrides as a shell takes them."""
    return " ".join(map(shlex.quote, overrides))
