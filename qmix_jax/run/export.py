"""Export of the decentralised team as a portable folder (docs/deploy.md):

    contract.json        inputs, outputs and rules of the agents
    weights.safetensors  the agents' weights; shared ones once
    deployed_agent.py    `DecentralisedAgent`, which needs these files and NumPy
    policy.jaxexport     the whole team's step as StableHLO, which needs JAX alone

Where the network is not the GRU, which `DecentralisedAgent` knows, compiled_network.py stands in the place of the
weights: an agent acts by the compiled step. The mixer and the global state are not exported: only training needs them.
"""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from qmix_jax import compiled_network, deployed_agent
from qmix_jax.actions import greedy
from qmix_jax.console import warn
from qmix_jax.envs.check.calls import is_key
from qmix_jax.files import to_json
from qmix_jax.records import best_seed, read_manifest
from qmix_jax.run.contract import describe, describe_network, is_gru
from qmix_jax.run.resume import complete_rows
from qmix_jax.run.snapshot import leaves_by_path
from qmix_jax.run.trained import TrainedRun, load_run
from qmix_jax.settings import ConfigError, require
from qmix_jax.types import AgentInput, Params

PLATFORMS = ("cpu", "cuda", "tpu")
"""For which the team's step is compiled."""


def export_run(folder: Path, out: Path, checkpoint: str = "last", seed: int | None = None) -> dict:
    """Export one seed of a run (counted from 0; None: the one with the best last evaluation).

    Returns:
        The contract.

    Raises:
        ConfigError: `folder` is no run that this version can read, or `out` cannot be written.
    """
    run = load_run(folder, checkpoint)
    rows, manifest = _read_records(folder, run.env_steps)
    seed = seed if seed is not None else best_seed(rows[-1]) if rows else 0
    provenance = {
        "folder": str(folder),
        "checkpoint": checkpoint,
        "seed": run.config.seed + seed,
        "algorithm": run.config.algorithm.name,
        "last_evaluation": rows[-1] if rows else None,
        "run": manifest,
    }
    return export_team(run, out, seed, provenance)


def _read_records(folder: Path, env_steps: int | None) -> tuple[list[dict], dict]:
    """The rows of the run and the content of run.json; empty, with a warning, where there are none."""
    rows, manifest = complete_rows(folder, env_steps), read_manifest(folder)
    if not rows:
        warn(f"{folder} has no evaluation: the first seed is exported, and {deployed_agent.CONTRACT} has none either")
    if not manifest:
        warn(f"{folder / 'run.json'} is missing or damaged: {deployed_agent.CONTRACT} does not describe the machine")
    return rows, manifest


def export_team(run: TrainedRun, out: Path, seed: int, provenance: dict) -> dict:
    """Write one seed's team to the new folder `out`, completely or not at all; returns the contract.

    Raises:
        ConfigError: an agent's values depend on other agents, weights are not finite, or no reader could load it.
    """
    require(not out.exists() or (out.is_dir() and not any(out.iterdir())), f"{out} exists already; name a new folder")
    params = run.params(seed)["agent"]
    broken = deployed_agent.not_finite(leaves_by_path(params))
    require(not broken, f"this team cannot be exported: its '{broken}' holds NaN or infinity; try another checkpoint")
    if is_gru(run):
        params = {name: np.asarray(leaf, np.float32) for name, leaf in params.items()}
        _refuse_unknown_weights(params, deployed_agent.expected_shapes(describe_network(run), run.env.spec.num_agents))
    else:
        _refuse_random_keys(run)
        _refuse_dependent_agents(run, params)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as draft:
            team = Path(draft) / "team"
            team.mkdir()
            contract = _write_files(team, run, params, provenance)
            team.replace(out)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror or error}") from error
    return contract


def _refuse_unknown_weights(params: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> None:
    for name in sorted({*params, *shapes}):
        found, wanted = params[name].shape if name in params else None, shapes.get(name)
        require(found == wanted, f"this network cannot be exported: '{name}' has shape {found}, not {wanted}")


def _refuse_random_keys(run: TrainedRun) -> None:
    """Refuse a recurrent state that NumPy, in which a deployed agent keeps it, cannot hold."""
    states = jax.tree.leaves(jax.eval_shape(lambda: run.agents.initial_state(1)))
    require(
        not any(map(is_key, states)),
        "this team cannot be exported: its recurrent state has typed random keys; keep jax.random.key_data(key) there",
    )


def _refuse_dependent_agents(run: TrainedRun, params: Params) -> None:
    """Refuse agents whose Q-values change with what the others see and do: alone they could not act as in the team.

    In row i of two steps agent i sees and does the same as in the last row, and all others something else.
    """
    spec, random = run.env.spec, np.random.default_rng(0)
    count, own = spec.num_agents, np.eye(spec.num_agents + 1, spec.num_agents, dtype=bool)
    own[-1] = True
    state, is_same = run.agents.initial_state(count + 1), np.ones(count, bool)
    for first in (True, False):
        obs = random.standard_normal((count + 2, count, spec.obs_size), np.float32)
        actions = random.integers(0, spec.num_actions, (count + 2, count), np.int32)
        obs, actions = np.where(own[..., None], obs[-1], obs[:-1]), np.where(own, actions[-1], actions[:-1])
        inputs = AgentInput(jnp.asarray(obs), jnp.asarray(actions), jnp.full(count + 1, first))
        state, output = run.agents.step(params, state, inputs)
        alone, together = np.asarray(output.q)[np.arange(count), np.arange(count)], np.asarray(output.q)[-1]
        is_same &= np.isclose(alone, together, rtol=1e-3, atol=1e-4, equal_nan=True).all(-1)
    names = [name for name, same in zip(spec.agent_names, is_same, strict=True) if not same]
    require(
        not names,
        f"this team cannot be exported: the Q-values of {', '.join(names)} change with what other agents see or do, so "
        "that they cannot act alone",
    )


def _write_files(team: Path, run: TrainedRun, params: Params, provenance: dict) -> dict:
    from safetensors.numpy import save

    sources = [deployed_agent] if is_gru(run) else [deployed_agent, compiled_network]
    for module in sources:
        shutil.copyfile(str(module.__file__), team / Path(str(module.__file__)).name)
    if is_gru(run):
        (team / deployed_agent.WEIGHTS).write_bytes(save(params, metadata={"format": deployed_agent.FORMAT}))
    program = compile_policy(run, params)
    (team / deployed_agent.PROGRAM).write_bytes(program.serialize())
    contract = {
        **describe(run, program),
        "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(team.iterdir())},
        "provenance": provenance,
    }
    text = to_json(contract, indent=1) + "\n"
    is_too_long = len(text.encode()) > deployed_agent.MAX_CONTRACT
    flaw = deployed_agent.contract_flaw(json.loads(text)) or "its length" * is_too_long
    name = deployed_agent.CONTRACT
    require(not flaw, f"this team cannot be exported: in {name}, {flaw} is more than a reader accepts")
    (team / name).write_text(text, encoding="utf-8")
    return contract


# --- the compiled form -------------------------------------------------------------------------------------------


def compile_policy(run: TrainedRun, params: Params) -> jax_export.Exported:
    """The team's step, weights included, exported by `jax.export` for any number of teams at once; for one, where the
    network cannot be compiled for any number.

    Inputs are the arrays of the recurrent state and then `last_action`, `first`, `observation` and `available`; outputs
    the arrays of the next state, the Q-values and the actions.
    """
    agents, weights, spec = run.agents, jax.tree.map(jnp.asarray, params), run.env.spec
    states, structure = jax.tree.flatten(jax.eval_shape(lambda: agents.initial_state(1)))

    def policy(*inputs):
        *state, last_action, first, observation, available = inputs
        state = jax.tree.unflatten(structure, state)
        state, output = agents.step(weights, state, AgentInput(observation, last_action, first))
        return *jax.tree.leaves(state), output.q, greedy(output.q, available).astype(jnp.int32)

    def compiled(batch) -> jax_export.Exported:
        team = (batch, spec.num_agents)
        inputs = (
            *(jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype) for leaf in states),
            jax.ShapeDtypeStruct(team, jnp.int32),
            jax.ShapeDtypeStruct((batch,), bool),
            jax.ShapeDtypeStruct((*team, spec.obs_size), jnp.float32),
            jax.ShapeDtypeStruct((*team, spec.num_actions), bool),
        )
        return jax_export.export(jax.jit(policy), platforms=PLATFORMS)(*inputs)

    try:
        return compiled(*jax_export.symbolic_shape("batch"))
    except Exception:  # whatever a network of somebody else does with an unknown size
        return compiled(1)
