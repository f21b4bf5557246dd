"""An exported team whose network is not the GRU: each agent acts by the team's compiled program."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exporting import COMPILED, LEGAL, OBS, made, play_in_processes
from test_own_agents import LSTMAgents

from qmix_jax.agents.gru import RecurrentAgents
from qmix_jax.compiled_network import CompiledNetwork
from qmix_jax.config import AgentConfig
from qmix_jax.deployed_agent import ArtifactError, DecentralisedAgent
from qmix_jax.run.export import export_team
from qmix_jax.run.trained import TrainedRun
from qmix_jax.settings import ConfigError
from qmix_jax.types import AgentInput, AgentOutput

SPEAKER = {"name": "mpe", "task": "simple_speaker_listener"}


def own(agents):
    """A team of a network of somebody else with random weights."""
    run = made(SPEAKER, {})
    config = replace(run.config, agent=AgentConfig("own", agents.Settings(), given=agents))
    params = agents(run.env).init(jax.random.key(3))
    return TrainedRun(config, run.env, {"agent": jax.tree.map(lambda leaf: leaf[None], params)})


def exported(run, folder):
    export_team(run, folder, seed=0, provenance={})
    return run, folder


@pytest.fixture(scope="module")
def lstm(tmp_path_factory):
    return exported(own(LSTMAgents), tmp_path_factory.mktemp("lstm") / "team")


@pytest.fixture
def team(lstm, tmp_path):
    """A copy of the LSTM's team that may be damaged."""
    return shutil.copytree(lstm[1], tmp_path / "team")


def test_separate_processes_play_whole_episodes_as_the_team_in_the_graph(lstm):
    play_in_processes(*lstm, COMPILED)


@pytest.mark.parametrize("network", ["lstm", pytest.param("transformer", marks=pytest.mark.slow)])
def test_an_agent_alone_acts_by_its_recurrent_state_and_forgets_it_at_a_reset(lstm, tmp_path, network):
    """The LSTM's state is two arrays."""
    run, folder = lstm
    if network == "transformer":
        transformers = made(SPEAKER, {"name": "transformer", "num_heads": 2, "num_layers": 1})
        run, folder = exported(transformers, tmp_path / "team")
    agent = DecentralisedAgent(folder, "listener_0", network=CompiledNetwork)
    random, actions = np.random.default_rng(0), []
    for episode in range(2):
        agent.reset()
        state = run.agents.initial_state(1)
        for t in range(5):
            obs = random.standard_normal((1, 2, 11), np.float32)
            inputs = AgentInput(jnp.asarray(obs), jnp.zeros((1, 2), int), jnp.array([t == 0]))
            state, output = run.agents.step(run.params(0)["agent"], state, inputs)
            actions.append(agent.act(obs[0, 1], LEGAL))
            assert actions[-1] == int(output.q[0, 1].argmax()), (episode, t)
    assert len(set(actions)) > 1


def test_the_folder_has_no_weights_and_the_contract_says_what_goes_in_and_comes_out(lstm):
    _, folder = lstm
    contract = json.loads((folder / "contract.json").read_text())
    assert contract["format_version"] == 2 and contract["network"] == {"name": "own", "obs_size": 11, "num_actions": 5}
    assert list(contract["compiled"]["inputs"])[:3] == ["hidden_0", "hidden_1", "last_action"]
    assert contract["compiled"]["outputs"]["hidden_1"] == "float32 (batch, 2, 6)"
    files = {"deployed_agent.py", "compiled_network.py", "policy.jaxexport"}
    assert contract["sha256"].keys() == files
    assert {path.name for path in folder.iterdir() if path.is_file()} == files | {"contract.json"}


def test_a_compiled_program_is_executed_only_where_it_is_asked_for(team):
    with pytest.raises(ArtifactError, match=r"is a compiled program, which is code: if you trust it, pass"):
        DecentralisedAgent(team, "listener_0")
    with pytest.raises(ValueError, match=r"^network=CompiledNetwork must be the class CompiledNetwork, not its name$"):
        DecentralisedAgent(team, "listener_0", network="CompiledNetwork")
    program = team / "policy.jaxexport"
    program.write_bytes(program.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=r"policy.jaxexport is not the file that contract.json was written with"):
        DecentralisedAgent(team, "listener_0", network=CompiledNetwork)


def test_a_gru_acts_the_same_compiled(tmp_path):
    _, folder = exported(made(SPEAKER, {}), tmp_path / "team")
    pair = [DecentralisedAgent(folder, "listener_0", network=network) for network in (None, CompiledNetwork)]
    for obs in np.random.default_rng(0).standard_normal((20, 11)):
        assert len({agent.act(obs, LEGAL) for agent in pair}) == 1


class Negated(RecurrentAgents):
    """The GRU's weights, and other values."""

    def step(self, params, state, inputs):
        state, output = super().step(params, state, inputs)
        return state, output._replace(q=-output.q)


def test_a_subclass_of_the_gru_acts_as_it_does_itself_and_not_as_the_gru(tmp_path):
    run = made(SPEAKER, {})
    config = replace(run.config, agent=replace(run.config.agent, given=Negated))
    negated = TrainedRun(config, run.env, run.all_params)
    _, gru = exported(run, tmp_path / "gru")
    _, folder = exported(negated, tmp_path / "negated")
    agent = DecentralisedAgent(gru, "listener_0")
    other = DecentralisedAgent(folder, "listener_0", network=CompiledNetwork)
    np.testing.assert_allclose(agent._network.step(OBS, 5), -other._network.step(OBS, 5), rtol=1e-5, atol=1e-5)


class Talkers(LSTMAgents):
    """The first agent sees what the second one sees."""

    def step(self, params, state, inputs):
        return super().step(params, state, inputs._replace(obs=inputs.obs.at[:, 0].add(inputs.obs[:, 1])))


def test_agents_that_cannot_act_alone_are_not_exported(tmp_path):
    with pytest.raises(ConfigError, match=r"the Q-values of speaker_0 change with what other agents see"):
        export_team(own(Talkers), tmp_path / "team", 0, {})
    assert not list(tmp_path.iterdir())


class Keyed(LSTMAgents):
    """Keeps a random key beside its state."""

    def initial_state(self, num_envs):
        return super().initial_state(num_envs), jax.random.split(jax.random.key(0), num_envs)


def test_a_recurrent_state_with_random_keys_is_not_exported(tmp_path):
    with pytest.raises(ConfigError, match=r"its recurrent state has typed random keys; keep jax.random.key_data"):
        export_team(own(Keyed), tmp_path / "team", 0, {})
    assert not list(tmp_path.iterdir())


class OneByOne(LSTMAgents):
    """Takes one environment after the other, in Python."""

    def step(self, params, state, inputs):
        steps = [
            super(OneByOne, self).step(params, *jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], (state, inputs)))
            for i in range(len(inputs.first))
        ]
        state, output = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *steps)
        return state, AgentOutput(*output)


def test_a_network_that_cannot_be_compiled_for_any_number_of_teams_is_compiled_for_one(tmp_path):
    _, folder = exported(own(OneByOne), tmp_path / "team")
    contract = json.loads((folder / "contract.json").read_text())
    assert contract["compiled"]["outputs"]["q"] == "float32 (1, agents, num_actions)"
    assert DecentralisedAgent(folder, "listener_0", network=CompiledNetwork).act(OBS, LEGAL) in range(5)
