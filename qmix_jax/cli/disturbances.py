"""The disturbances of `qmix-jax evaluate`: noise on observations, replaced actions, removed agents."""

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from qmix_jax.settings import require, require_one_of

if TYPE_CHECKING:
    from qmix_jax.learning.robustness import Disturbance
    from qmix_jax.types import TeamSpec

EACH = "each"
NOISE, REPLACED = (0.05, 0.1, 0.2, 0.5), (0.1, 0.25, 0.5, 1.0)


def add_disturbances(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose disturbances."""
    wrong = parser.add_argument_group("when something goes wrong (a table of scores against severity each)")
    wrong.add_argument(
        "--noise",
        nargs="?",
        const=NOISE,
        default=(),
        type=severities(math.inf),
        metavar="STD,...",
        help=f"normal noise on every number of every observation (default {_list(NOISE)})",
    )
    wrong.add_argument(
        "--replace",
        nargs="?",
        const=REPLACED,
        default=(),
        type=severities(1.0),
        metavar="SHARE,...",
        help=f"this share of the actions replaced by random legal ones (default {_list(REPLACED)})",
    )
    wrong.add_argument(
        "--remove",
        nargs="?",
        const=EACH,
        metavar="AGENT",
        help="remove one agent: the one named, or each, one after another (default)",
    )
    wrong.add_argument(
        "--removed",
        choices=("idle", "random"),
        help="what a removed agent does: nothing (the default where that is an action) or random legal actions",
    )


def severities(most: float) -> Callable[[str], tuple[float, ...]]:
    """An argument's type: numbers from 0 (to `most`) with commas between."""

    def numbers(text: str) -> tuple[float, ...]:
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError as error:
            raise argparse.ArgumentTypeError(
                f"'{text}' must be numbers with commas between, such as 0.1,0.5"
            ) from error
        if not all(0 <= value <= most and value < math.inf for value in values):
            bounds = "0 or more" if most == math.inf else f"between 0 and {most:g}"
            raise argparse.ArgumentTypeError(f"'{text}' must be {bounds}")
        return values

    return numbers


def _list(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


class Kind(NamedTuple):
    """One kind of disturbance, at several severities."""

    name: str
    title: str
    severity: str
    zero: float | str
    """The severity of the undisturbed team."""
    trials: "list[tuple[float | str, Disturbance]]"


def kinds_of(options: argparse.Namespace, spec: "TeamSpec") -> list[Kind]:
    """The kinds of disturbance on the command line."""
    import jax.numpy as jnp

    from qmix_jax.learning.robustness import undisturbed

    calm, names = undisturbed(spec.num_agents), spec.agent_names
    kinds = [
        Kind("observation_noise", "Noise on observations", "deviation", 0.0, [
            (std, calm._replace(noise=jnp.array(std))) for std in options.noise if std
        ]),
        Kind("replaced_actions", "Actions replaced by random legal ones", "share", 0.0, [
            (share, calm._replace(replaced=jnp.array(share))) for share in options.replace if share
        ]),
        Kind("removed_agent", f"One agent removed ({_what_it_does(options, spec)})", "agent", "none", [
            (name, calm._replace(removed=jnp.arange(len(names)) == names.index(name)))
            for name in removed_agents(options, spec)
        ]),
    ]  # fmt: skip
    return [kind for kind in kinds if kind.trials]


def removed_agents(options: argparse.Namespace, spec: "TeamSpec") -> tuple[str, ...]:
    """The names of the agents that are removed, one after another."""
    require(options.remove or not options.removed, f"--removed={options.removed} needs --remove")
    if options.remove in (None, EACH):
        return spec.agent_names if options.remove else ()
    require_one_of("--remove", options.remove, [EACH, *spec.agent_names])
    return (options.remove,)


def idle_action(options: argparse.Namespace, spec: "TeamSpec") -> int | None:
    """The action of a removed agent; None: random legal ones."""
    is_possible = options.removed != "idle" or spec.idle_action is not None
    require(is_possible, f"--removed=idle: no action does nothing in {spec.name}; write --removed random")
    return None if options.removed == "random" else spec.idle_action


def _what_it_does(options: argparse.Namespace, spec: "TeamSpec") -> str:
    return "it acts at random" if idle_action(options, spec) is None else "it does nothing"
