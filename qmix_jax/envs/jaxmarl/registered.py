"""JaxMARL's registered environments, made by name."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from qmix_jax.envs.jaxmarl.env import JaxMarlEnv
from qmix_jax.envs.jaxmarl.settings import JaxMarlConfig
from qmix_jax.envs.jaxmarl_import import only_parts_of_jaxmarl
from qmix_jax.settings import ConfigError, shown

PLACES = {
    "overcooked_v2": "overcooked_v2.overcooked:OvercookedV2",
    "overcooked": "overcooked.overcooked:Overcooked",
    "hanabi": "hanabi:Hanabi",
    "switch_riddle": "switch_riddle:SwitchRiddle",
    "HeuristicEnemySMAX": "smax:HeuristicEnemySMAX",
    "MPE_simple_v3": "mpe:SimpleMPE",
    "MPE_simple_spread_v3": "mpe:SimpleSpreadMPE",
    "MPE_simple_reference_v3": "mpe:SimpleReferenceMPE",
    "MPE_simple_speaker_listener_v4": "mpe:SimpleSpeakerListenerMPE",
}
"""The module and class of each, in `jaxmarl.environments`."""
LIMITS = {"hanabi": 100}
"""Limits of those without `max_steps`. A game of Hanabi takes 95 turns at most: with two players, 40 that draw a card,
2 after the last card, and a hint for each of 8 + 45 tokens."""
BY_NAME: dict[tuple[str, str], tuple[str, Callable[[Any, str], Any]]] = {
    ("overcooked", "layout"): ("overcooked.layouts", lambda layouts, name: layouts.overcooked_layouts[name]),
    ("HeuristicEnemySMAX", "scenario"): ("smax", lambda smax, name: smax.map_name_to_scenario(name)),
}
"""Arguments that are objects, found by name: (id, argument) -> the module, and the object from it and the name."""


def make_registered(settings: JaxMarlConfig) -> JaxMarlEnv:
    """The environment of these settings."""
    module, _, attribute = PLACES[settings.id].partition(":")
    try:
        found = {key: _found(settings.id, key, value) for key, value in settings.kwargs.items()}
        env = getattr(_module(module), attribute)(**found)
    except Exception as error:  # a constructor may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"env.kwargs={shown(dict(settings.kwargs))} does not make {settings.id}: {reason}") from error
    return JaxMarlEnv(
        env,
        settings.id,
        reward=settings.reward,
        shaped_reward=settings.shaped_reward,
        metrics=settings.metrics,
        max_steps=settings.max_steps or LIMITS.get(settings.id),
    )


def _module(name: str) -> Any:
    with only_parts_of_jaxmarl():
        return import_module(f"jaxmarl.environments.{name}")


def _found(env_id: str, key: str, value: Any) -> Any:
    """The argument itself, or the object that its name stands for."""
    if (env_id, key) not in BY_NAME or not isinstance(value, str):
        return value
    module, find = BY_NAME[env_id, key]
    return find(_module(module), value)
