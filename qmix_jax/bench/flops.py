"""Floating-point operations of a function, counted from the shapes of its matrix products.

Counted by hand from the jaxpr, because XLA's own analysis counts the body of a loop only once.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from qmix_jax.learning.trainer import Trainer
from qmix_jax.run.program import Program
from qmix_jax.types import swap_time_and_batch


def matrix_product_flops(function: Callable, *args: Any) -> int:
    """2 M N K for every (M, K) x (K, N) product that one call needs, from arrays or shapes; nothing else is counted.

    The body of a loop counts as often as it runs (once, where the number is unknown), a branch as its most expensive
    side, and of implementations for several kinds of devices the cheapest, so that devices can be compared.
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    used, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))  # as the compiler does
    return _count(used)


def _count(jaxpr: Jaxpr) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: Any) -> int:
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    inner = [_count(jaxpr) for value in equation.params.values() for jaxpr in _jaxprs(value)]
    if equation.primitive.name == "cond":
        return min(inner) if equation.params.get("branches_platforms") else max(inner)
    return sum(inner) * equation.params.get("length", 1)  # a scan's


def _jaxprs(value: Any) -> Iterator[Jaxpr]:
    """The jaxprs in a parameter of an equation."""
    for item in value if isinstance(value, tuple | list) else [value]:
        if isinstance(item, ClosedJaxpr):
            yield item.jaxpr
        elif isinstance(item, Jaxpr):
            yield item


def update_flops(program: Program) -> int:
    """Operations of one update of one seed: its whole batch, forwards and backwards."""
    whole = Trainer(program.config, program.env)  # without a mesh: the same arithmetic
    seed = jax.eval_shape(whole.init, 0)
    size = program.config.learner.batch_size
    rows = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype), whole.row())
    batch = jax.eval_shape(lambda rows: whole.format.decompress(swap_time_and_batch(rows)), rows)
    return matrix_product_flops(whole.learner.update, seed.learner, batch, program.shapes.clock.iteration)
