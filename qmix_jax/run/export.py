"""Export of the decentralised team as a portable folder (docs/deploy.md):

    contract.json        inputs, outputs and rules of the agents
    weights.safetensors  the agents' weights; shared ones once
    deployed_agent.py    `DecentralisedAgent`, which needs these files and NumPy
    policy.jaxexport     the whole team's step as StableHLO, which needs JAX alone

The mixer and the global state are not exported: only training needs them.
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

from qmix_jax import __version__, deployed_agent
from qmix_jax.actions import greedy
from qmix_jax.agents.gru import RecurrentAgents
from qmix_jax.console import warn
from qmix_jax.deployed_agent import ArtifactError
from qmix_jax.envs.layout import Layout, layout_of
from qmix_jax.files import to_json
from qmix_jax.records import best_seed, describe_machine, read_manifest, read_metrics
from qmix_jax.run.trained import TrainedRun, load_run
from qmix_jax.settings import ConfigError, require
from qmix_jax.types import AgentInput

AGENT, COMPILED, PLATFORMS = "deployed_agent.py", "policy.jaxexport", ("cpu", "cuda", "tpu")


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
        ConfigError: the agents are no GRU, their weights are not finite, or the export could not be loaded again.
    """
    require(not out.exists() or (out.is_dir() and not any(out.iterdir())), f"{out} exists already; name a new folder")
    is_gru = isinstance(run.agents, RecurrentAgents)
    require(is_gru, f"agents of agent={run.config.agent.name} cannot be exported")
    params = {name: np.asarray(leaf, np.float32) for name, leaf in run.params(seed)["agent"].items()}
    network = _describe_network(run)
    _refuse_unknown_weights(params, deployed_agent.expected_shapes(network, run.env.spec.num_agents))
    broken = deployed_agent.not_finite(params)
    require(not broken, f"this team cannot be exported: its '{broken}' holds NaN or infinity; try another checkpoint")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as draft:
            team = Path(draft) / "team"
            team.mkdir()
            contract = _write_files(team, run, network, params, provenance)
            team.replace(out)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror or error}") from error
    return contract


def _refuse_unknown_weights(params: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> None:
    for name in sorted({*params, *shapes}):
        found, wanted = params[name].shape if name in params else None, shapes.get(name)
        require(found == wanted, f"this network cannot be exported: '{name}' has shape {found}, not {wanted}")


def _write_files(team: Path, run: TrainedRun, network: dict, params: dict[str, np.ndarray], provenance: dict) -> dict:
    from safetensors.numpy import save

    shutil.copyfile(deployed_agent.__file__, team / AGENT)
    (team / deployed_agent.WEIGHTS).write_bytes(save(params, metadata={"format": deployed_agent.FORMAT}))
    (team / COMPILED).write_bytes(compile_policy(run, params))
    made = {name: (team / name).read_bytes() for name in (AGENT, deployed_agent.WEIGHTS, COMPILED)}
    contract = {
        "format": deployed_agent.FORMAT,
        "format_version": deployed_agent.FORMAT_VERSION,
        "environment": _describe_environment(run),
        "shield": run.config.env.shield,
        "network": network,
        **_describe_agents(run.env.spec.agent_names, layout_of(run.env)),
        **_describe_rules(network),
        "compiled": _describe_compiled(),
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in made.items()},
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


def compile_policy(run: TrainedRun, params: dict[str, np.ndarray]) -> bytes:
    """The team's step, weights included, serialised by `jax.export` for any number of teams at once."""
    agents, weights = run.agents, jax.tree.map(jnp.asarray, params)

    def policy(hidden, last_action, first, observation, available):
        hidden, output = agents.step(weights, hidden, AgentInput(observation, last_action, first))
        return hidden, output.q, greedy(output.q, available).astype(jnp.int32)

    spec, size = run.env.spec, run.config.agent.settings.hidden_size
    (batch,) = jax_export.symbolic_shape("batch")
    team = (batch, spec.num_agents)
    inputs = (
        jax.ShapeDtypeStruct((*team, size), jnp.float32),
        jax.ShapeDtypeStruct(team, jnp.int32),
        jax.ShapeDtypeStruct((batch,), bool),
        jax.ShapeDtypeStruct((*team, spec.obs_size), jnp.float32),
        jax.ShapeDtypeStruct((*team, spec.num_actions), bool),
    )
    return bytes(jax_export.export(jax.jit(policy), platforms=PLATFORMS)(*inputs).serialize())


def _describe_compiled() -> dict:
    return {
        "file": COMPILED,
        "platforms": PLATFORMS,
        "inputs": {
            "hidden": "float32 (batch, agents, hidden_size), what the step before returned",
            "last_action": "int32 (batch, agents), what the step before returned",
            "first": "bool (batch,), true in an episode's first step: hidden and last_action are ignored then",
            "observation": "float32 (batch, agents, obs_size), padded with zeros",
            "available": "bool (batch, agents, num_actions), padded with false; narrowed by the shield already",
        },
        "outputs": {
            "hidden": "float32 (batch, agents, hidden_size)",
            "q": "float32 (batch, agents, num_actions)",
            "action": "int32 (batch, agents)",
        },
    }


# --- the contract ------------------------------------------------------------------------------------------------


def _describe_network(run: TrainedRun) -> dict[str, Any]:
    """The padded sizes and the switches of the agents' network: what fixes the shape of every weight."""
    agent, spec = run.config.agent.settings, run.env.spec
    return {
        "obs_size": spec.obs_size,
        "num_actions": spec.num_actions,
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


def _describe_rules(network: dict) -> dict:
    """What a program without this package needs to act as the team does."""
    return {
        "padding": "an observation is padded with zeros to network.obs_size, actions with illegal ones to num_actions",
        "choice": "the legal action with the largest q, the first of equals; at least one action must be legal",
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
