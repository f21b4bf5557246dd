"""`qmix-jax check-env`: whether an environment keeps the contract, and what is to be known of it."""

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from qmix_jax.build import environments, from_mapping, make_env
from qmix_jax.cli.arguments import Parser
from qmix_jax.console import say
from qmix_jax.run import startup
from qmix_jax.run.exits import DONE, USAGE_ERROR
from qmix_jax.settings import ConfigError, defaults, shown

if TYPE_CHECKING:
    from qmix_jax.config import EnvConfig
    from qmix_jax.envs.base import TeamEnv
    from qmix_jax.envs.check import Play

DESCRIPTION = """\
Check an environment: trace its methods, then play some hundred random legal steps with several seeds. Settings
NAME=VALUE are those of qmix-jax train.

Each mistake is a line on stderr that names the class, the method and the field, what is and what must be; the exit
status is then 2. Otherwise a table says what there is to know: sizes, bytes in replay, speed, random play. Nothing is
written. docs/check-env.md lists the checks."""

EXAMPLES = """\
examples
  qmix-jax check-env env=mpe env.task=simple_spread
  qmix-jax check-env env=smax env.map=3m"""


def main(arguments: list[str]) -> int:
    """Check the environment of the command line; returns the exit status."""
    options = parse(arguments)
    from qmix_jax.cli.compose import compose

    settings = compose(options.overrides)
    startup.import_jax()
    config = from_mapping(settings)
    startup.start_jax([config.devices])
    import jax

    from qmix_jax.envs.check import play, shape_problems

    jax.config.update("jax_enable_compilation_cache", False)  # leaves files
    env = make_env(config.env)
    if mistakes := shape_problems(env, config.env.settings) or [
        *_painter_problems(env),
        *_variant_problems(config.env),
    ]:
        return _report(mistakes)
    played = play(env, jax.random.key(config.seed))
    if played.mistakes:
        return _report(played.mistakes)
    print("\n".join(_table(env, played, config.rollout.num_envs, config.replay.dtype)))
    return DONE


def parse(arguments: list[str]) -> argparse.Namespace:
    """The settings, as `overrides`."""
    parser = Parser("check-env", takes_settings=True, description=DESCRIPTION, epilog=EXAMPLES)
    return parser.parse_intermixed_args(arguments)


def _painter_problems(env: "TeamEnv") -> list[str]:
    """Why the painter cannot be had; training would find out only after its last step, when it makes the film."""
    from qmix_jax.film.painter import painter_of

    try:
        painter_of(env)
    except ConfigError as error:
        return [str(error)]
    return []


def _variant_problems(config: "EnvConfig") -> Iterator[str]:
    """Variants of an environment from elsewhere that cannot be made with the defaults of the other settings."""
    entry = environments()[config.name]
    if not hasattr(entry.settings, "made_from"):
        return
    required = [name for name in vars(config.settings) if name not in defaults(entry.settings)]
    others = {name: getattr(config.settings, name) for name in required}
    for value in entry.variants:
        settings = entry.settings(**{**others, entry.variant: value})
        try:
            make_env(dataclasses.replace(config, settings=settings, shield=None))
        except ConfigError as error:
            yield f"{entry.settings.__name__}.variants has {value!r}, but {error}"


def _report(mistakes: list[str]) -> int:
    for mistake in mistakes:
        say(f"qmix-jax: error: {mistake}", sys.stderr)
    return USAGE_ERROR


def _table(env: "TeamEnv", played: "Play", num_envs: int, dtype: str) -> list[str]:
    """What is to be known of the environment."""
    import jax

    from qmix_jax.envs.check.random_play import bytes_per_step, speed

    spec = env.spec
    sums = {name: [value for row in rows for value in row] for name, rows in played.episodes.items()}
    played_on = speed(env, num_envs)
    rate = f"{float(f'{played_on.steps_per_second:.2g}'):,.0f} ({num_envs} environments, {jax.default_backend()})"
    after = _summary(played_on.to_next_end, is_share=False) if played_on.to_next_end else "none ended again"
    rows = {
        "agents": f"{spec.num_agents}: {shown(', '.join(spec.agent_names))}",
        "numbers an agent sees": spec.obs_size,
        "actions": spec.num_actions,
        "action that does nothing": "none" if spec.idle_action is None else spec.idle_action,
        "numbers of the state": spec.state_size,
        "episode limit (steps)": f"{spec.episode_limit:,}",
        "bytes a step in replay": f"{bytes_per_step(env, dtype):,} ({dtype})",
        "steps a second alone": rate,
        "steps from an end to the next": after,
        "different starts": f"{played.starts[0]} of {played.starts[1]}",
        "random episodes": f"{len(sums['length']):,} finished, {100 * played.truncated:.3g} % of them by a limit",
        **{f"random {name}": _summary(values, name.endswith("_rate")) for name, values in sums.items()},
    }
    width = max(map(len, rows))
    first = f"{spec.name}: no mistake found, also in {played.num_steps:,} random steps"
    return [first, *(f"  {name:<{width}}  {value}" for name, value in rows.items())]


def _summary(values: list[float], is_share: bool) -> str:
    """The mean of episodes, with the range where it is no share."""
    if not values:
        return "no episode ended"
    mean = sum(values) / len(values)
    return f"{100 * mean:.3g} %" if is_share else f"{mean:.4g} ({min(values):.4g} to {max(values):.4g})"
