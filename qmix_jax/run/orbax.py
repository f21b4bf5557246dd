"""Pytrees of arrays on disk, through Orbax: each process alone, also where it is one of several of a run."""

import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qmix_jax.run import hosts


def read(folder: Path) -> Any:
    """The pytree of NumPy arrays in a folder; raises ValueError where Orbax finds none in it."""
    import orbax.checkpoint as ocp

    with _checkpointer() as checkpointer, _without_patterns(folder.resolve()) as plain:
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), _structure(checkpointer, plain))
        return checkpointer.restore(plain, ocp.args.PyTreeRestore(restore_args=as_numpy))


def write(place: Path, trees: Mapping[str, Any]) -> None:
    """Write pytrees of NumPy arrays, each into the folder of its name in `place`; raises ValueError where one cannot be
    read back.
    """
    import orbax.checkpoint as ocp

    with _checkpointer(use_zarr3=True) as checkpointer, _without_patterns(place) as plain:
        for name, tree in trees.items():
            checkpointer.save(plain / name, args=ocp.args.PyTreeSave(tree))
            _structure(checkpointer, plain / name)


def _structure(checkpointer: Any, path: Path) -> Any:
    """The pytree in a folder with a description of each array, without the arrays' content."""
    found = checkpointer.metadata(path).item_metadata
    if found is None:
        raise ValueError(f"{path.name} holds no arrays that can be read back")
    return found.tree


@contextmanager
def _without_patterns(place: Path) -> Iterator[Path]:
    """The folder by a path without characters of a pattern: Orbax looks for its files by patterns of whole paths."""
    if not set("*?[]\\") & set(str(place)):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="qmix-jax-") as folder:
        link = Path(folder, place.name)
        link.symlink_to(place, target_is_directory=True)
        yield link


@contextmanager
def _checkpointer(**options: Any) -> Iterator[Any]:
    """An Orbax with options; it waits for no process, and writes NumPy arrays also where this is not process 0."""
    import orbax.checkpoint as ocp  # takes a second to import, so only when something is saved or read

    _hush_orbax()
    processes: Any = {}
    with ExitStack() as stack:
        if hosts.count() > 1:
            from unittest import mock

            from orbax.checkpoint._src.multihost import multihost

            stack.enter_context(mock.patch.object(multihost, "process_index", lambda: 0))
            alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
            processes = {"multiprocessing_options": alone}
        handler = ocp.PyTreeCheckpointHandler(**options, **processes)
        yield stack.enter_context(ocp.Checkpointer(handler, **processes))


@cache
def _hush_orbax() -> None:
    """Keep Orbax from printing the further errors of a write whose first error it raises. Once: a library that sets its
    own hooks later calls these, and would be called by them.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.excepthook = partial(_drop_late_errors, sys.excepthook)
    sys.unraisablehook = partial(_drop_late_unraisable, sys.unraisablehook)


LATE = "Event loop is closed"
"""The error of stores that answer after Orbax has given up."""


def _drop_late_errors(hook: Callable, kind: type[BaseException], error: BaseException, traceback: Any) -> None:
    """Python's hook for unhandled errors, except `LATE` ones."""
    if str(error) != LATE:
        hook(kind, error, traceback)


def _drop_late_unraisable(hook: Callable, unraisable: Any) -> None:
    """Likewise for those of threads that are not Python's."""
    if str(unraisable.exc_value) != LATE:
        hook(unraisable)
