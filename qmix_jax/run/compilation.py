"""Compiling lowered programs with options that the installed XLA may not know."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from qmix_jax.console import warn
from qmix_jax.run import hosts
from qmix_jax.run.lock import waited_for


def compile_quickly(lowered: Any) -> Any:
    """Compile a program that runs once: on a CPU without optimisations, which would take longer than they save."""
    is_cpu = jax.default_backend() == "cpu"
    quickly = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return compile_with(lowered, quickly if is_cpu else {})


def compile_with(lowered: Any, options: Mapping[str, Any]) -> Any:
    """Compile with those options that the installed XLA knows; a warning names each of the others once."""
    try:
        with _equal_programs_in_turn(lowered):
            return lowered.compile(dict(options) or None)
    except jax.errors.JaxRuntimeError as error:
        unknown = re.search(r"No such compile option: '(\w+)'", str(error))
        if unknown is None or unknown[1] not in options:
            raise
    _warn_of_unknown_option(unknown[1])
    return compile_with(lowered, {name: value for name, value in options.items() if name != unknown[1]})


@contextmanager
def _equal_programs_in_turn(lowered: Any) -> Iterator[None]:
    """Let processes that compile one program do it one after the other: the first compiles it, the others find it in
    the compilation cache on disk. Where there is none, or no locks, nobody waits; nor do the processes of one run,
    which XLA may let compile together.
    """
    folder = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    with ExitStack() as stack:
        if folder and "://" not in folder and hosts.count() == 1:
            with suppress(OSError):
                stack.enter_context(waited_for(Path(folder) / f"{fingerprint(lowered)}.lock"))
        yield


def fingerprint(lowered: Any) -> str:
    """Equal for lowered programs that are equal, wherever in the source they were called from."""
    return hashlib.sha256(lowered.as_text().encode()).hexdigest()


@cache
def _warn_of_unknown_option(name: str) -> None:
    warn(f"this XLA (jaxlib {metadata.version('jaxlib')}) has no option {name}: compiling without it")
