"""The temporary memory of compiled programs by XLA's own analysis, kept beside the compilation cache.

A program that was compiled once is so known before it is compiled again, with any number of seeds: what is temporary
is proportional to the seeds that a device computes at a time.
"""

import hashlib
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from qmix_jax.files import read_json, write_json
from qmix_jax.records import known
from qmix_jax.run.devices import DATA, SEED
from qmix_jax.run.program import Program
from qmix_jax.traced import program_key


def record(program: Program, compiled: Any) -> None:
    """Keep what XLA says of a compiled chunk; nothing where it, or the cache's folder, cannot tell or take it."""
    path, size = _path(program), temporary_bytes(compiled)
    if path is not None and size:
        with suppress(OSError):
            write_json(path, {"seeds": _seeds_at_a_time(program), "bytes": size})


def temporaries(program: Program) -> float | None:
    """Bytes of what is temporary, over all devices; None where no such program was compiled here."""
    path = _path(program)
    found = read_json(path) if path is not None else None
    numbers = known([found.get("seeds"), found.get("bytes")]) if isinstance(found, dict) else []
    if len(numbers) < 2 or min(numbers) <= 0:
        return None
    seeds, size = numbers
    return size * program.mesh.size * _seeds_at_a_time(program) / seeds


def temporary_bytes(compiled: Any) -> int:
    """Bytes of one device that a compiled chunk needs beside its arguments; 0 where XLA does not tell."""
    try:
        found = compiled.memory_analysis()
        results = max(found.output_size_in_bytes - found.alias_size_in_bytes, 0)
        return found.temp_size_in_bytes + found.generated_code_size_in_bytes + results
    except (AttributeError, NotImplementedError, jax.errors.JaxRuntimeError):
        return 0


def _seeds_at_a_time(program: Program) -> int:
    """The seeds that a device computes at a time."""
    return program.config.num_seeds // program.mesh.shape[SEED] if program.vmaps_seeds else 1


def _path(program: Program) -> Path | None:
    """The file of a program, whatever its number of seeds; None for one with a part made in Python, or without a
    folder. A scan over seeds copies the state of one, so it is told apart from a device's only seed.
    """
    config, folder = program.config, jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    is_given = any(part.given is not None for part in (config.env, config.algorithm, config.agent))
    if not folder or "://" in folder or is_given:
        return None
    has_one = config.num_seeds == program.mesh.shape[SEED]
    seeds = "one" if has_one else "together" if program.vmaps_seeds else "in turn"
    plain = replace(config, num_seeds=1, total_env_steps=1, devices="auto")
    kind = program.mesh.devices.flat[0].device_kind
    text = f"{program_key(plain)} {seeds} {program.mesh.shape[DATA]} {kind} {metadata.version('jaxlib')}"
    return Path(folder) / f"{hashlib.sha256(text.encode()).hexdigest()}.memory.json"
