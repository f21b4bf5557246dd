"""Compiling lowered programs with options that the installed XLA may not know."""

import re
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from typing import Any

import jax

from qmix_jax.console import warn


def compile_quickly(lowered: Any) -> Any:
    """Compile a program that runs once: on a CPU without optimisations, which would take longer than they save."""
    is_cpu = jax.default_backend() == "cpu"
    quickly = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return compile_with(lowered, quickly if is_cpu else {})


def compile_with(lowered: Any, options: Mapping[str, Any]) -> Any:
    """Compile with those options that the installed XLA knows; a warning names each of the others once."""
    try:
        return lowered.compile(dict(options) or None)
    except jax.errors.JaxRuntimeError as error:
        unknown = re.search(r"No such compile option: '(\w+)'", str(error))
        if unknown is None or unknown[1] not in options:
            raise
    _warn_of_unknown_option(unknown[1])
    return compile_with(lowered, {name: value for name, value in options.items() if name != unknown[1]})


@cache
def _warn_of_unknown_option(name: str) -> None:
    warn(f"this XLA (jaxlib {metadata.version('jaxlib')}) has no option {name}: compiling without it")
