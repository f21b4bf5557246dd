"""Calls of an environment's methods as JAX traces them, and their exceptions as one line."""

import inspect
import linecache
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib
import jaxtyping
import numpy as np
from jax.core import Tracer

import qmix_jax
from qmix_jax.console import reason, short

ADVICE: dict[type[Exception], str] = {
    jax.errors.TracerBoolConversionError: "a Python if, while, and, or, not or assert on a traced array; use "
    "jnp.where, jax.lax.cond, or & | ~",
    jax.errors.TracerArrayConversionError: "a NumPy function of a traced array; use jax.numpy",
    jax.errors.TracerIntegerConversionError: "a traced array as a Python integer, such as the index of a list; use "
    "arrays of jax.numpy",
    jax.errors.NonConcreteBooleanIndexError: "a traced mask as an index, which gives no fixed shape; use jnp.where",
    jax.errors.ConcretizationTypeError: "float(), int() or item() of a traced array, or a size that depends on one; "
    "keep it an array of fixed shape",
    jax.errors.UnexpectedTracerError: "an array that an earlier call left in an attribute or global; put it into the "
    "state",
    jax.errors.KeyReuseError: "a key is used twice, which gives the same random numbers again; use jax.random.split",
}
"""What an exception of JAX means, and the way out; the more special exceptions stand first."""
OWN = Path(qmix_jax.__file__).parent
ELSEWHERE = tuple(Path(module.__file__ or "").parent for module in (jax, jaxlib, jaxtyping, np))
ADDRESS = re.compile(r"0x[0-9a-f]+")


class WrongArgumentsError(Exception):
    """A method does not take the arguments of the contract."""


class Traced(NamedTuple):
    """One traced call."""

    result: Any
    """What the method returned, with tracers for arrays: only their shapes and dtypes may be read."""
    program: tuple[str, list[np.ndarray]]
    """The traced program and its constants: the same for every call of a pure function."""

    def is_same_program(self, other: "Traced") -> bool:
        """Whether both calls do the same."""
        (text, constants), (other_text, others) = self.program, other.program
        return text == other_text and all(map(np.array_equal, constants, others))


def trace(method: Callable, *arguments: Any) -> Traced:
    """Trace a method with arguments that are arrays or shapes. Python runs through the method every time."""
    results = []

    def call(*arguments: Any) -> list[jax.Array]:
        results.append(method(*arguments))
        return [leaf for leaf in jax.tree.leaves(results[-1]) if isinstance(leaf, jax.Array)]

    traced = jax.make_jaxpr(call)(*arguments)
    if any(isinstance(constant, Tracer) for constant in traced.consts):
        raise jax.errors.UnexpectedTracerError("an array of another call")
    constants = [np.asarray(constant) for constant in traced.consts if not is_key(constant)]
    return Traced(results[-1], (ADDRESS.sub("", str(traced)), constants))


def is_key(leaf: Any) -> bool:
    """Whether an array holds typed random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def holds_numbers(array: Any) -> bool:
    """Whether an array holds numbers or truth values; texts, objects and typed random keys are none."""
    return not is_key(array) and array.dtype.kind in "biuf"


def require_arguments(env: Any, name: str, expected: tuple[str, ...]) -> None:
    """Raise WrongArgumentsError unless the environment has a method that takes the arguments."""
    method, wanted = getattr(env, name, None), f"{name}({', '.join(expected)})"
    if not callable(method):
        raise WrongArgumentsError(f"{name} is {kind(method)}, but must be a method {wanted}")
    signature = inspect.signature(method)
    try:
        signature.bind(*expected)
    except TypeError:
        raise WrongArgumentsError(f"{name} takes {signature.replace(return_annotation=inspect.Signature.empty)}, "
                      f"but must be {wanted}") from None  # fmt: skip
    names = tuple(signature.parameters)
    if names != expected and set(names) == set(expected):
        raise WrongArgumentsError(f"{name} takes ({', '.join(names)}), but must be {wanted}, in this order")


def kind(value: Any) -> str:
    """What a value is, in words: "float32 of shape (2, 3)", "a NumPy array of ...", "a list"."""
    if isinstance(value, jax.Array | jax.ShapeDtypeStruct):
        return f"{value.dtype} of shape {value.shape}"
    if isinstance(value, np.ndarray | np.generic):
        return f"a NumPy array ({value.dtype} of shape {value.shape})"
    if value is None:
        return "None"
    if isinstance(value, bool | int | float | str):
        return f"the Python {type(value).__name__} {value!r}"
    return f"of type {type(value).__name__}"


# --- exceptions --------------------------------------------------------------------------------------------------


def explain(error: Exception) -> str:
    """What an exception in somebody's code means, with the file and the line."""
    advice = next((text for cls, text in ADVICE.items() if isinstance(error, cls)), None)
    return (advice or f"{type(error).__name__}: {reason(error)}") + _place(error)


def _place(error: Exception) -> str:
    """Where an exception was raised: the innermost frame that is neither of JAX and NumPy nor, if possible, of
    qmix_jax.
    """
    frames = [frame for frame in _frames(error) if not _is_below(frame, ELSEWHERE)]
    frame = next((frame for frame in frames if not _is_below(frame, (OWN,))), next(iter(frames), None))
    if frame is None:
        return ""
    line = linecache.getline(frame.filename, frame.lineno or 0).strip()
    return f" ({short(Path(frame.filename))}:{frame.lineno}: {line[:80]})"


def _frames(error: BaseException) -> Iterator[traceback.FrameSummary]:
    """The frames of an exception, innermost first; before them those of its cause."""
    if error.__cause__:
        yield from _frames(error.__cause__)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).parent != Path(__file__).parent and not frame.filename.startswith("<"):
            yield frame


def _is_below(frame: traceback.FrameSummary, folders: tuple[Path, ...]) -> bool:
    return any(Path(frame.filename).is_relative_to(folder) for folder in folders)
