"""QMIX and its family of value-decomposition methods, trained end to end in JAX (docs/python.md).

Importing this package does not import JAX; each name below is imported when it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qmix_jax.agents.base import Agents as Agents
    from qmix_jax.api import Run as Run
    from qmix_jax.api import compose as compose
    from qmix_jax.api import evaluate as evaluate
    from qmix_jax.api import export as export
    from qmix_jax.api import load_run as load_run
    from qmix_jax.api import register as register
    from qmix_jax.api import render as render
    from qmix_jax.api import train as train
    from qmix_jax.config import Config as Config
    from qmix_jax.envs.base import TeamEnv as TeamEnv
    from qmix_jax.mixers.base import Mixer as Mixer
    from qmix_jax.reporters.base import Callback as Callback
    from qmix_jax.settings import ConfigError as ConfigError
    from qmix_jax.sweep.launchers.base import Launcher as Launcher
    from qmix_jax.types import AgentInput as AgentInput
    from qmix_jax.types import AgentOutput as AgentOutput
    from qmix_jax.types import MixerInput as MixerInput
    from qmix_jax.types import Observation as Observation
    from qmix_jax.types import Outcome as Outcome
    from qmix_jax.types import TeamSpec as TeamSpec

__version__ = "0.1.0"

_NAMES = {
    "api": ("Run", "compose", "evaluate", "export", "load_run", "register", "render", "train"),
    "config": ("Config",),
    "settings": ("ConfigError",),
    "envs.base": ("TeamEnv",),
    "mixers.base": ("Mixer",),
    "agents.base": ("Agents",),
    "reporters.base": ("Callback",),
    "sweep.launchers.base": ("Launcher",),
    "types": ("AgentInput", "AgentOutput", "MixerInput", "Observation", "Outcome", "TeamSpec"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module(f"{__name__}.run.startup").import_jax()  # before an array is made: every CPU core becomes a device
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
