"""Parameters on disk, through Orbax."""

import logging
from pathlib import Path
from typing import Any

import jax

FINAL = "final"


def save_params(folder: Path, params: Any, name: str = FINAL) -> Path:
    """Write a pytree of arrays to folder/checkpoints/name (replacing it) and return that path."""
    import orbax.checkpoint as ocp  # takes a second to import, so only when something is saved

    logging.getLogger("absl").setLevel(logging.ERROR)
    path = (folder / "checkpoints" / name).resolve()
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, params, force=True)
    return path


def load_params(folder: Path, shapes: Any, name: str = FINAL) -> Any:
    """Read what `save_params` wrote, into host arrays with the structure of `shapes`."""
    import orbax.checkpoint as ocp

    path = (folder / "checkpoints" / name).resolve()
    with ocp.StandardCheckpointer() as checkpointer:
        return jax.device_get(checkpointer.restore(path, shapes))
