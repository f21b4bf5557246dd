"""Properties of the program itself, found in its text.

Each of them is about speed, precision or a deadlock that the tests' small inputs do not meet: the numbers would be the
same, or nearly, without it. `jaxpr` is the program as traced, `lowered` what XLA gets, `chunk` what XLA compiled.
"""

import jax
import jax.numpy as jnp
import pytest
from conftest import tiny

from qmix_jax.bench.profile import origins
from qmix_jax.learning.trainer import Trainer
from qmix_jax.nn.gru import GruWeights, gru_unroll
from qmix_jax.nn.linear import matmul_dtype
from qmix_jax.run import hosts
from qmix_jax.run.program import DATA, Program
from qmix_jax.types import Clock

CLOCK = Clock(jnp.array(0))


def jaxpr(function, *args):
    return str(jax.make_jaxpr(function)(*args))


def branches(function, *args):
    """How often the program branches, other than by the kind of device that it is compiled for."""
    text = jaxpr(function, *args)
    return text.count("cond[") - text.count("branches_platforms=")


# --- branches: one that became a select computes both sides and returns the same numbers ---------------------------


def test_a_step_vmapped_over_seeds_still_branches_by_the_clock(probe):
    trainer = Trainer(tiny(), probe)
    states = jax.eval_shape(jax.vmap(trainer.init), jnp.arange(3))
    step = jax.vmap(trainer.step, in_axes=(None, 0))
    assert branches(step, CLOCK, states) == 1  # whether to learn


def test_an_accelerator_that_learns_equally_often_in_every_iteration_never_waits_for_the_host(probe):
    """No branch and no loop of unknown length: a CPU, which the tests run on, waits for neither."""
    config = tiny()
    assert config.iteration_env_steps % config.learner.env_steps_per_update == 0
    trainer = Trainer(config, probe, branches=False)
    state = jax.eval_shape(trainer.init, 0)
    assert branches(trainer.step, CLOCK, state) == 0
    for part in (trainer.step, trainer.evaluate):
        assert "while[" not in jaxpr(part, CLOCK, state)


def test_an_accelerator_branches_where_it_would_make_updates_only_to_drop_them(probe):
    """Dropped updates leave the numbers as they are and cost their time."""
    trainer = Trainer(tiny(learner={"env_steps_per_update": 25.6}), probe, branches=False)
    assert branches(trainer.step, CLOCK, jax.eval_shape(trainer.init, 0)) == 1


# --- devices and host: a needless all-reduce or callback changes no number -----------------------------------------


def test_an_update_is_one_all_reduce_and_a_chunk_one_more(trained):
    """Counted after XLA has merged those that it can merge; a loop's body is in the text once."""
    sharing = trained.program.mesh.shape[DATA]
    assert trained.chunk.as_text().count(" all-reduce(") == (2 if sharing > 1 else 0)


def test_nothing_within_a_chunk_waits_for_the_host(trained):
    assert not any(word in trained.chunk.as_text() for word in ("callback", "infeed", "outfeed", " send(", " recv("))


def test_initialisation_calls_no_lapack(probe):
    """A QR decomposition batched over seeds on several CPU devices deadlocks XLA's thread pool (jaxlib 0.10).

    The deadlock depends on timing, so that a run without one would prove nothing.
    """
    text = jaxpr(jax.vmap(Trainer(tiny(), probe).init), jnp.arange(2))
    assert not any(word in text for word in ("householder", "geqrf", " qr["))


# --- precision: a product in the wrong precision is off by less than what tests of learning allow ------------------


def test_products_are_of_float32_by_default():
    shapes = (3, 24), (24,), (8, 24), (8,)
    weights = GruWeights(*map(jnp.ones, shapes))
    inputs, hidden, first = jnp.ones((5, 2, 3)), jnp.ones((2, 8)), jnp.zeros((5, 2), bool)

    def products():
        return jaxpr(lambda *args: gru_unroll(*args), weights, hidden, inputs, first).count("bf16")

    with matmul_dtype("bfloat16"):
        assert products() > 0
    with matmul_dtype("float32"):
        assert products() == 0
    assert products() == 0


@pytest.mark.slow
def test_the_compiled_program_multiplies_in_bfloat16_only_if_set(train):
    """XLA may raise bfloat16 to float32 again while it compiles."""
    assert " bf16[" in train(devices=2, matmul_dtype="bfloat16").chunk.as_text()
    assert " bf16[" not in train(devices=2).chunk.as_text()


def test_on_a_gpu_every_product_with_parameters_is_of_bfloat16_and_mixing_of_float32(probe):
    """Lowered for a GPU, which the tests do not have."""
    program = Program.make(tiny(devices=1, matmul_dtype="bfloat16"), probe)
    lowered = jax.jit(program.chunk).trace(program.shapes, program.numbers).lower(lowering_platforms=("cuda",))
    products = [line for line in lowered.as_text().splitlines() if "stablehlo.dot_general" in line]
    casts, algorithms = "xbf16>", "algorithm = <lhs_precision_type = bf16, rhs_precision_type = bf16"
    mixing = [line for line in products if "batching_dims" in line]  # a matrix of its own for every state
    assert mixing and all("precision = [HIGHEST, HIGHEST]" in line and "bf16" not in line for line in mixing)
    others = [line for line in products if line not in mixing]
    assert others and all(casts in line or algorithms in line for line in others)


# --- the profile: the text is what it reads -------------------------------------------------------------------------


def test_an_operations_origin_is_read_off_the_compiled_program():
    function = jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda _, y: jnp.sin(y @ x), x))
    found = origins(function.lower(jnp.ones((8, 8))).compile().as_text())
    assert any(origin.endswith("dot_general") and "while" not in origin for origin in found.values())


def test_nothing_is_put_on_the_devices_that_a_program_is_compiled_for(probe, monkeypatch):
    """So it can be compiled for a GPU or a TPU that is not here (experiments/gpu_kernels.py, tpu_compile.py)."""

    def place(*arguments):
        raise AssertionError("arrays are put on devices")

    monkeypatch.setattr(hosts, "place", place)
    program = Program.make(tiny(), probe, jax.devices()[:1])
    assert program.compile_chunk() and program.compile_init()
