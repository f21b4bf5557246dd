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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from qmix_jax import __version__, compiled_network, deployed_agent
from qmix_jax.actions import greedy
from qmix_jax.agents.gru import RecurrentAgents
from qmix_jax.console import warn
from qmix_jax.deployed_agent import ArtifactError
from qmix_jax.envs.layout import Layout, layout_of
from qmix_jax.files import to_json
from qmix_jax.records import best_seed, describe_machine, read_manifest, read_metrics
from qmix_jax.run.snapshot import leaves_by_path
from qmix_jax.run.trained import TrainedRun, load_run
from qmix_jax.settings import ConfigError, require
from qmix_jax.types import AgentInput, Params

PLATFORMS = ("cpu", "cuda", "tpu")


def export_run(folder: Path, out: Path, checkpoint: str = "last", seed: int | None = None) -> dict:
    """Export one seed of a run (counted from 0; None: the one with the best last evaluation).

    Returns:
        The contract.

    Raises:
        ConfigError: `folder` is no run that this version can read, or `out` cannot be written.
    """
    run = load_run(folder, checkpoint)
    rows, manifest = _read_records(folder)
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


def _read_records(folder: Path) -> tuple[list[dict], dict]:
    """The rows of metrics.jsonl and the content of run.json; empty, with a warning, where missing or damaged."""
    rows, manifest = [], read_manifest(folder)
    try:
        rows = read_metrics(folder / "metrics.jsonl")
    except ArtifactError as error:
        warn(f"{error}: the first seed is exported, and {deployed_agent.CONTRACT} has no evaluation")
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
        _refuse_unknown_weights(params, deployed_agent.expected_shapes(_describe_network(run), run.env.spec.num_agents))
    else:
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


def is_gru(run: TrainedRun) -> bool:
    """Whether the team's network is the one that a deployed agent computes on NumPy."""
    return isinstance(run.agents, RecurrentAgents)


def _refuse_unknown_weights(params: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> None:
    for name in sorted({*params, *shapes}):
        found, wanted = params[name].shape if name in params else None, shapes.get(name)
        require(found == wanted, f"this network cannot be exported: '{name}' has shape {found}, not {wanted}")


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
    (team / deployed_agent.PROGRAM).write_bytes(program)
    network = _describe_network(run)
    contract = {
        "format": deployed_agent.FORMAT,
        "format_version": deployed_agent.FORMAT_VERSION if is_gru(run) else deployed_agent.COMPILED_VERSION,
        "environment": _describe_environment(run),
        "shield": run.config.env.shield,
        "network": network,
        **_describe_agents(run.env.spec.agent_names, layout_of(run.env)),
        "padding": "an observation is padded with zeros to network.obs_size, actions with illegal ones to num_actions",
        "choice": "the legal action with the largest q, the first of equals; at least one action must be legal",
        **(_describe_gru(network) if is_gru(run) else {}),
        "compiled": _describe_compiled(run, program),
        "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(team.iterdir())},
        "exported_with": _describe_software(),
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


def compile_policy(run: TrainedRun, params: Params) -> bytes:
    """The team's step, weights included, serialised by `jax.export` for any number of teams at once; for one, where the
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

    def compiled(batch) -> bytes:
        team = (batch, spec.num_agents)
        inputs = (
            *(jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype) for leaf in states),
            jax.ShapeDtypeStruct(team, jnp.int32),
            jax.ShapeDtypeStruct((batch,), bool),
            jax.ShapeDtypeStruct((*team, spec.obs_size), jnp.float32),
            jax.ShapeDtypeStruct((*team, spec.num_actions), bool),
        )
        return bytes(jax_export.export(jax.jit(policy), platforms=PLATFORMS)(*inputs).serialize())

    try:
        return compiled(*jax_export.symbolic_shape("batch"))
    except Exception:  # whatever a network of somebody else does with an unknown size
        return compiled(1)


def _describe_compiled(run: TrainedRun, program: bytes) -> dict:
    exported = jax_export.deserialize(bytearray(program))
    states = exported.in_avals[:-4]
    names = ["hidden"] if len(states) == 1 else [f"hidden_{i}" for i in range(len(states))]
    hidden = {name: f"{leaf.dtype} {leaf.shape}" for name, leaf in zip(names, states, strict=True)}
    batch = exported.in_avals[-3].shape[0]
    return {
        "file": deployed_agent.PROGRAM,
        "platforms": PLATFORMS,
        "inputs": {
            **{name: f"{text}, what the step before returned" for name, text in hidden.items()},
            "last_action": f"int32 ({batch}, agents), what the step before returned",
            "first": f"bool ({batch},), true in an episode's first step: hidden and last_action are ignored then",
            "observation": f"float32 ({batch}, agents, obs_size), padded with zeros",
            "available": f"bool ({batch}, agents, num_actions), padded with false; narrowed by the shield already",
        },
        "outputs": {
            **hidden,
            "q": f"float32 ({batch}, agents, num_actions)",
            "action": f"int32 ({batch}, agents)",
        },
    }


# --- the contract ------------------------------------------------------------------------------------------------


def _describe_network(run: TrainedRun) -> dict[str, Any]:
    """The padded sizes, and of the GRU the size and the switches that fix the shape of every weight."""
    agent, spec = run.config.agent.settings, run.env.spec
    sizes = {"obs_size": spec.obs_size, "num_actions": spec.num_actions}
    if not is_gru(run):
        return {"name": run.config.agent.name, **sizes}
    return {
        **sizes,
        "hidden_size": agent.hidden_size,
        "share_parameters": agent.share_parameters,
        "use_agent_id": agent.use_agent_id,
        "use_last_action": agent.use_last_action,
        "layer_norm": agent.layer_norm,
    }


def _describe_software() -> dict:
    machine = describe_machine()
    return {"qmix_jax": __version__, **{name: machine[name] for name in ("python", "versions", "git")}}


def _describe_environment(run: TrainedRun) -> dict:
    spec, env = run.env.spec, run.config.env
    return {
        "name": spec.name,
        "kind": env.name,
        "settings": vars(env.settings),
        "episode_limit": spec.episode_limit,
        "num_agents": spec.num_agents,
    }


def _describe_agents(names: tuple[str, ...], layout: Layout) -> dict:
    """Every agent's true sizes, observation and actions; the features of each kind of block are listed once."""
    agents = []
    for name, agent in zip(names, layout.agents, strict=True):
        sizes = [len(layout.kinds[kind]) for _, kind in agent.blocks]
        blocks = [
            {"about": about, "kind": kind, "start": sum(sizes[:i]), "size": sizes[i]}
            for i, (about, kind) in enumerate(agent.blocks)
        ]
        sized = {"obs_size": sum(sizes), "num_actions": len(agent.actions)}
        agents.append({"name": name, **sized, "observation": blocks, "actions": agent.actions})
    used = dict.fromkeys(kind for agent in layout.agents for _, kind in agent.blocks)
    kinds = {kind: [feature._asdict() for feature in layout.kinds[kind]] for kind in used}
    return {"agents": agents, "observation_kinds": kinds, "availability": layout.availability}


def _describe_gru(network: dict) -> dict:
    """What a program without this package needs to compute an agent's Q-values."""
    return {
        "recurrent_state": {
            "size": network["hidden_size"],
            "dtype": "float32",
            "reset": "zeros before the first step of every episode",
        },
        "last_action": {
            "used": network["use_last_action"],
            "meaning": "the agent's own action of the step before",
            "reset": network["num_actions"],
        },
        "agent_id": {
            "used": network["use_agent_id"] and network["share_parameters"],
            "meaning": "the agent's place in the list of agents, from 0",
        },
        "weights": "shared by all agents" if network["share_parameters"] else "axis 0 is the agent's place in the list",
        "equations": _equations(network),
    }


def _equations(network: dict) -> list[str]:
    """One agent's step in terms of the weights' names; h is its recurrent state, [i] a row, * elementwise."""
    rows = " + last_action[a]" * network["use_last_action"]
    rows += " + agent_id[i]" * (network["use_agent_id"] and network["share_parameters"])

    def norm(x: str, layer: int) -> str:
        scaled = f"({x} - mean({x})) / sqrt(var({x}) + 1e-6) * norm_scale[{layer}] + norm_bias[{layer}]"
        return scaled if network["layer_norm"] else x

    return [
        f"e = observation @ obs + bias{rows}",
        f"x = relu({norm('e', 0)})",
        "x_r, x_z, x_n = split(x @ gru_input + gru_bias, 3)",
        "h_r, h_z, h_n = split(h @ gru_recurrent, 3)",
        "r = sigmoid(x_r + h_r); z = sigmoid(x_z + h_z)",
        "n = tanh(x_n + r * (h_n + gru_recurrent_bias))",
        "h = (1 - z) * n + z * h",
        f"y = {norm('h', 1)}",
        "q_values = y @ q + q_bias",
    ]
