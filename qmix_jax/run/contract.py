"""The contract of an exported team: what its agents get and return, for programs in any language (docs/deploy.md)."""

from dataclasses import asdict
from typing import Any

from jax.export import Exported

from qmix_jax import __version__, deployed_agent
from qmix_jax.agents.gru import RecurrentAgents
from qmix_jax.envs.layout import Layout, layout_of
from qmix_jax.records import describe_machine
from qmix_jax.run.trained import TrainedRun


def describe(run: TrainedRun, program: Exported) -> dict[str, Any]:
    """The contract of a run's team without what belongs to one export; `program` is the team's compiled step."""
    network = describe_network(run)
    return {
        "format": deployed_agent.FORMAT,
        "format_version": deployed_agent.FORMAT_VERSION if is_gru(run) else deployed_agent.COMPILED_VERSION,
        "environment": _describe_environment(run),
        "shield": run.config.env.shield,
        "network": network,
        **_describe_agents(run.env.spec.agent_names, layout_of(run.env)),
        "padding": "an observation is padded with zeros to network.obs_size, actions with illegal ones to num_actions",
        "choice": "the legal action with the largest q, the first of equals; at least one action must be legal",
        **(_describe_gru(network) if is_gru(run) else {}),
        "compiled": _describe_compiled(program),
        "exported_with": _describe_software(),
    }


def is_gru(run: TrainedRun) -> bool:
    """Whether the team's network is the one that a deployed agent computes on NumPy."""
    return type(run.agents) is RecurrentAgents  # a subclass may compute something else


def describe_network(run: TrainedRun) -> dict[str, Any]:
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
        "settings": asdict(env.settings),
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


def _describe_compiled(program: Exported) -> dict:
    states = program.in_avals[:-4]
    names = ["hidden"] if len(states) == 1 else [f"hidden_{i}" for i in range(len(states))]
    hidden = {name: f"{leaf.dtype} {leaf.shape}" for name, leaf in zip(names, states, strict=True)}
    batch = program.in_avals[-3].shape[0]
    return {
        "file": deployed_agent.PROGRAM,
        "platforms": program.platforms,
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
