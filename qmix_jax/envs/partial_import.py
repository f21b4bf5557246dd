"""Importing one module of a package whose `__init__` imports everything."""

import contextlib
import importlib.util
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without_init(*packages: str) -> Iterator[None]:
    """Import modules of these packages, outer ones first, without running the packages' own `__init__`.

    The packages themselves are not left in `sys.modules`: an import of them outside of this context runs it.
    """
    names = [name for name in packages if name not in sys.modules]
    try:
        for name in names:
            spec = importlib.util.find_spec(name)
            if spec is not None:
                sys.modules[name] = importlib.util.module_from_spec(spec)
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)
