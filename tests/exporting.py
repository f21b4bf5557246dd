"""Exported teams with random weights, and episodes of their agents in processes: shared by the tests of export."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY

from qmix_jax.build import from_mapping, make_env
from qmix_jax.envs.layout import layout_of
from qmix_jax.learning.evaluate import greedy_policy
from qmix_jax.run.export import export_team
from qmix_jax.run.trained import TrainedRun
from qmix_jax.types import AgentInput

TEAMS = {
    "smax": ({"name": "smax", "map": "3m"}, {}),
    "spread": (
        {"name": "mpe", "task": "simple_spread"},
        {"share_parameters": False, "layer_norm": True, "use_last_action": False},
    ),
    "speaker": ({"name": "mpe", "task": "simple_speaker_listener"}, {"layer_norm": True, "use_agent_id": False}),
}


def made(env, agent):
    """A team with random weights, none of them near zero, so that whatever is left out or mixed up shows."""
    settings = {**TINY, "env": env, "agent": {"hidden_size": 8, **agent}}
    config = from_mapping(settings)
    run = TrainedRun(config, make_env(config.env), {})
    params = run.agents.init(jax.random.key(6))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    shaken = [leaf + 0.5 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    params = {"agent": jax.tree.unflatten(structure, shaken)}
    if "obs" in params["agent"]:
        params["agent"]["obs"] *= 3  # what is seen decides
    return TrainedRun(config, run.env, jax.tree.map(lambda leaf: leaf[None], params))


@pytest.fixture(scope="session")
def teams(tmp_path_factory):
    """Every team of TEAMS, exported: name -> (run, folder)."""
    place = tmp_path_factory.mktemp("teams")
    runs = {name: made(*TEAMS[name]) for name in TEAMS}
    for name, run in runs.items():
        export_team(run, place / name, seed=0, provenance={})
    return {name: (run, place / name) for name, run in runs.items()}


@pytest.fixture
def team(teams, tmp_path):
    """A copy of the speaker and listener that may be damaged."""
    return Path(shutil.copytree(teams["speaker"][1], tmp_path / "team"))


OBS, LEGAL = np.linspace(-1, 1, 11), [True] * 5
"""An input of the listener."""


# --- agents in separate processes --------------------------------------------------------------------------------

EPISODES = 2
ON_NUMPY, COMPILED = "None", "__import__('compiled_network').CompiledNetwork"
"""What `DecentralisedAgent` gets as its network."""

AGENT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from deployed_agent import DecentralisedAgent

agent = DecentralisedAgent(sys.argv[1], agent=sys.argv[2], network=NETWORK)
foreign = {name.partition(".")[0] for name in sys.modules} & {"qmix_jax", "safetensors", "flax"}
assert not foreign, foreign
assert ("jax" in sys.modules) == (NETWORK is not None)
for line in sys.stdin:
    message = json.loads(line)
    if message == "reset":
        agent.reset()
    else:
        print(agent.act(*message), flush=True)
"""


@contextlib.contextmanager
def processes(folder, names, network):
    """One isolated Python process for each agent, which gets the folder and the agent's name."""
    command = [sys.executable, "-I", "-c", AGENT.replace("NETWORK", network), str(folder)]
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([*command, name], **pipe) for name in names]
    try:
        yield started
    finally:
        for process in started:
            process.communicate(timeout=60)
        assert [process.returncode for process in started] == [0] * len(started)


def say(process, message):
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


def play_in_processes(run, folder, network):
    """Each agent alone in a process acts in every step of whole episodes as the team does in the compiled program."""
    env, agents = run.env, run.agents
    sizes = [(len(layout_of(env).features(i)), len(a.actions)) for i, a in enumerate(layout_of(env).agents)]
    policy = greedy_policy(agents, run.params(0)["agent"])

    @jax.jit
    def step(key, state, observation, hidden, last_action, first):
        inputs = AgentInput(observation.agents[None], last_action[None], first[None])
        hidden, action = policy(hidden, inputs, observation.available[None], None)
        state, observation, outcome = env.step(key, state, action[0])
        return state, observation, hidden, action[0], outcome.terminated | outcome.truncated

    reset, taken = jax.jit(env.reset), []
    with processes(folder, env.spec.agent_names, network) as team:
        for episode in range(EPISODES):
            state, observation = reset(jax.random.key(episode))
            hidden, action = agents.initial_state(1), jnp.full(env.spec.num_agents, env.spec.num_actions)
            for process in team:
                say(process, "reset")
            for t in range(env.spec.episode_limit):
                for i, (process, (obs_size, num_actions)) in enumerate(zip(team, sizes, strict=True)):
                    obs, legal = observation.agents[i, :obs_size], observation.available[i, :num_actions]
                    say(process, [obs.tolist(), legal.tolist()])
                chosen = [int(process.stdout.readline()) for process in team]
                key = jax.random.fold_in(jax.random.key(episode + 100), t)
                state, observation, hidden, action, ended = step(
                    key, state, observation, hidden, action, jnp.array(t == 0)
                )
                assert chosen == action.tolist(), f"episode {episode}, step {t}"
                taken.append(chosen)
                if ended:
                    break
            assert ended
    assert len(np.unique(taken, axis=0)) > 1, "a team that always does the same would prove little"
