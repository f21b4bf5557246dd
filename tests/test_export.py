"""A team leaves the house: each agent alone in a process, with NumPy, plays as the team did in the compiled program."""

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY, best_legal, masks, merge, strange_values
from safetensors.numpy import load_file

from qmix_jax import deployed_agent as runtime
from qmix_jax.cli import main as cli
from qmix_jax.config import ConfigError, from_mapping
from qmix_jax.deployed_agent import ArtifactError, DecentralisedAgent
from qmix_jax.envs import make_env
from qmix_jax.envs.layout import layout_of
from qmix_jax.learning.evaluate import greedy_policy
from qmix_jax.records import best_seed, read_metrics
from qmix_jax.run import experiment
from qmix_jax.run.checkpoint import TrainedRun, load_run
from qmix_jax.run.export import compile_policy, export_team
from qmix_jax.types import AgentInput

TEAMS = {
    "smax": ({"name": "smax", "map": "3m"}, {}),
    "spread": (
        {"name": "mpe", "task": "simple_spread"},
        {"share_parameters": False, "layer_norm": True, "use_last_action": False},
    ),
    "speaker": ({"name": "mpe", "task": "simple_speaker_listener"}, {"layer_norm": True, "use_agent_id": False}),
}
EPISODES = 2


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
    params["agent"]["obs"] *= 3  # what is seen decides
    return TrainedRun(config, run.env, jax.tree.map(lambda leaf: leaf[None], params))


@pytest.fixture(scope="module")
def teams(tmp_path_factory):
    """Every team of TEAMS, exported: name -> (run, folder)."""
    place = tmp_path_factory.mktemp("teams")
    runs = {name: made(*TEAMS[name]) for name in TEAMS}
    for name, run in runs.items():
        export_team(run, place / name, seed=0, provenance={})
    return {name: (run, place / name) for name, run in runs.items()}


# --- separate processes ------------------------------------------------------------------------------------------

AGENT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from runtime import DecentralisedAgent

agent = DecentralisedAgent(sys.argv[1], agent=sys.argv[2])
foreign = {name.partition(".")[0] for name in sys.modules} & {"jax", "qmix_jax", "safetensors", "flax"}
assert not foreign, foreign
for line in sys.stdin:
    message = json.loads(line)
    if message == "reset":
        agent.reset()
    else:
        print(agent.act(*message), flush=True)
"""


@contextlib.contextmanager
def processes(folder, names):
    """One isolated Python for each agent: it is given the folder and its own name."""
    command = [sys.executable, "-I", "-c", AGENT, str(folder)]
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


@pytest.mark.parametrize("name", list(TEAMS))
def test_separate_processes_play_whole_episodes_as_the_team_in_the_graph(teams, name):
    run, folder = teams[name]
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
    with processes(folder, env.spec.agent_names) as team:
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


def test_importing_the_runtime_imports_no_jax():
    code = (
        "import sys; from qmix_jax.deployed_agent import DecentralisedAgent; "
        "assert not {'jax', 'jaxlib'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


COMPILED = """
import sys
sys.modules["qmix_jax"] = None  # importing it fails from here on
import jax, jax.export
import numpy as np

for folder in sys.argv[1:]:
    policy = jax.export.deserialize(bytearray(open(f"{folder}/policy.jaxexport", "rb").read()))
    for batch in (1, 3):
        inputs = np.load(f"{folder}/inputs{batch}.npz")
        hidden, q, action = policy.call(*(inputs[name] for name in inputs.files))
        np.savez(f"{folder}/outputs{batch}.npz", hidden=hidden, q=q, action=action)
"""


def compiled_inputs(run, batch):
    keys = iter(jax.random.split(jax.random.key(batch), 4))
    spec, size = run.env.spec, run.config.agent.hidden_size
    team = (batch, spec.num_agents)
    return {
        "hidden": jax.random.normal(next(keys), (*team, size)),
        "last_action": jax.random.randint(next(keys), team, 0, spec.num_actions, jnp.int32),
        "first": jnp.arange(batch) == 1,
        "observation": jax.random.normal(next(keys), (*team, spec.obs_size)),
        "available": jax.random.bernoulli(next(keys), 0.5, (*team, spec.num_actions)).at[..., -1].set(True),
    }


def test_the_compiled_form_runs_without_this_package_for_any_number_of_teams(teams, tmp_path):
    chosen = {name: (teams[name][0], tmp_path / name) for name in ("smax", "spread")}
    for name, (run, folder) in chosen.items():
        shutil.copytree(teams[name][1], folder)
        for batch in (1, 3):
            np.savez(folder / f"inputs{batch}.npz", **compiled_inputs(run, batch))
    command = [sys.executable, "-c", COMPILED, *(str(folder) for _, folder in chosen.values())]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for run, folder in chosen.values():
        for batch in (1, 3):
            given, found = compiled_inputs(run, batch), np.load(folder / f"outputs{batch}.npz")
            inputs = AgentInput(given["observation"], given["last_action"], given["first"])
            hidden, output = jax.jit(run.agents.step)(run.params(0)["agent"], given["hidden"], inputs)
            np.testing.assert_allclose(found["q"], output.q, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(found["hidden"], hidden, rtol=1e-5, atol=1e-5)
            best = np.where(given["available"], output.q, -np.inf).argmax(-1)
            np.testing.assert_array_equal(found["action"], best)


def test_whatever_its_values_are_the_compiled_team_and_a_lone_agent_take_the_best_legal_action(teams):
    run, folder = teams["spread"]
    q, legal, team = strange_values(50, 3, 5), masks(5), (31, 3)
    weights = run.params(0)["agent"] | {"q": jnp.zeros((3, 8, 5)), "q_bias": jnp.asarray(q[0])}
    policy = jax.export.deserialize(bytearray(compile_policy(run, weights)))
    inputs = jnp.zeros((*team, 8)), jnp.zeros(team, jnp.int32), jnp.ones(31, bool), jnp.zeros((*team, 18))
    compiled = policy.call(*inputs, jnp.asarray(legal[:, None].repeat(3, axis=1)))[2]
    np.testing.assert_array_equal(compiled, [[best_legal(q[0, i], mask) for i in range(3)] for mask in legal])
    agent = DecentralisedAgent(folder, agent="agent_0")
    agent._weights["q"] = np.zeros((8, 5), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for values in q.reshape(-1, 5):
            agent._weights["q_bias"] = values
            assert [agent.act(np.zeros(18), mask) for mask in legal] == [best_legal(values, mask) for mask in legal]


def test_an_agent_says_once_that_its_values_are_no_numbers(teams):
    agent = DecentralisedAgent(teams["speaker"][1], agent="listener_0")
    agent._weights |= {"q_bias": np.array([0, np.nan, 1, 0, 0], np.float32)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.act(OBS, [True, False, True, True, True])  # the NaN is not legal
    with pytest.warns(
        RuntimeWarning, match="^listener_0: Q-values of legal actions are NaN or infinite.*first$"
    ) as said:
        for _ in range(3):
            assert agent.act(OBS, [False, True, False, False, False]) == 1
    assert len(said) == 1


def test_weights_that_overflow_leave_an_agent_with_legal_actions(teams):
    agent = DecentralisedAgent(teams["smax"][1], agent="ally_1")
    agent._weights["obs"] = np.full_like(agent._weights["obs"], 3e38)
    with pytest.warns(RuntimeWarning, match="^ally_1: "):
        assert agent.act(np.ones(agent.obs_size), np.arange(agent.num_actions) > 2) == 3


# --- the artifact ------------------------------------------------------------------------------------------------


def test_the_weights_are_plain_safetensors_and_shared_ones_are_there_once(teams):
    for run, folder in teams.values():
        stored = load_file(folder / "weights.safetensors")
        jax.tree.map(np.testing.assert_array_equal, stored, run.params(0)["agent"])
        network, num_agents = run.config.agent, run.env.spec.num_agents
        lead = () if network.share_parameters else (num_agents,)
        assert stored["gru_recurrent"].shape == (*lead, 8, 24)


def test_the_contract_tells_whoever_feeds_the_agents_what_to_feed(teams):
    contract = json.loads((teams["speaker"][1] / "contract.json").read_text())
    assert contract["environment"]["settings"] == {"task": "simple_speaker_listener"}
    assert contract["network"]["obs_size"] == 11 and contract["network"]["num_actions"] == 5
    speaker, listener = contract["agents"]
    assert (speaker["name"], speaker["obs_size"], speaker["num_actions"]) == ("speaker_0", 3, 3)
    assert (listener["name"], listener["obs_size"], listener["num_actions"]) == ("listener_0", 11, 5)
    assert listener["actions"][1] == "left (x falls)" and speaker["actions"][2] == "say word_2"
    assert listener["observation"][-1] == {"about": "speaker_0", "kind": "message", "start": 8, "size": 3}
    assert contract["observation_kinds"]["goal"][0] == {"name": "is_landmark_0", "low": 0.15, "high": 0.65}
    assert contract["recurrent_state"]["size"] == 8 and contract["last_action"] == {
        "used": True,
        "meaning": "the agent's own action of the step before",
        "reset": 5,
    }
    assert not contract["agent_id"]["used"] and contract["shield"] is None
    assert contract["exported_with"]["versions"]["jax"] == jax.__version__


def test_the_contract_of_a_battle_names_targets_and_units(teams):
    contract = json.loads((teams["smax"][1] / "contract.json").read_text())
    agent = contract["agents"][1]
    assert agent["actions"][4:] == ["stop", "attack enemy_0", "attack enemy_1", "attack enemy_2"]
    about = [block["about"] for block in agent["observation"]]
    assert about == ["ally_0", "ally_2", "enemy_0", "enemy_1", "enemy_2", "ally_1"]
    names = [feature["name"] for feature in contract["observation_kinds"]["self"]]
    assert names[:4] == ["health", "x_over_map_width", "y_over_map_height", "weapon_cooldown"]


def test_the_contract_names_the_hash_of_every_file(teams):
    folder = teams["smax"][1]
    hashes = json.loads((folder / "contract.json").read_text())["sha256"]
    assert hashes.keys() == {path.name for path in folder.iterdir() if path.is_file()} - {"contract.json"}
    assert all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256 for name, sha256 in hashes.items())


def test_a_contract_from_before_the_runtime_was_hashed_is_still_read(team):
    path = team / "contract.json"
    contract = json.loads(path.read_text())
    del contract["sha256"]["runtime.py"]
    path.write_text(json.dumps(contract))
    assert DecentralisedAgent(team, agent="listener_0").act(OBS, LEGAL) in range(5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_not_exported(teams, tmp_path, value):
    run, _ = teams["speaker"]
    agent = run.all_params["agent"] | {"q_bias": run.all_params["agent"]["q_bias"].at[0, 0].set(value)}
    with pytest.raises(ConfigError, match=r"^this team cannot be exported: its 'q_bias' holds NaN or infinity; try"):
        export_team(dataclasses.replace(run, all_params={"agent": agent}), tmp_path / "team", 0, {})
    assert not list(tmp_path.iterdir())


def test_what_a_reader_would_refuse_is_not_exported(teams, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "MAX_CONTRACT", 1_000)
    with pytest.raises(ConfigError, match=r"cannot be exported: in contract.json, its length is more than a reader"):
        export_team(teams["speaker"][0], tmp_path / "team", 0, {})
    assert not list(tmp_path.iterdir())


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.fixture
def team(teams, tmp_path):
    """A copy of the speaker and listener that may be damaged."""
    return Path(shutil.copytree(teams["speaker"][1], tmp_path / "team"))


def edit(team, **changes):
    path = team / "contract.json"
    path.write_text(json.dumps(merge(json.loads(path.read_text()), changes)))


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def rehash(team):
    """The contract's hash of the weights, as somebody who means harm would set it."""
    edit(team, sha256={"weights.safetensors": hashlib.sha256((team / "weights.safetensors").read_bytes()).hexdigest()})


def write_header(team, header):
    """Another header (text, or entries) before the same numbers."""
    path = team / "weights.safetensors"
    data = path.read_bytes()
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + struct.unpack("<Q", data[:8])[0] :])
    rehash(team)


def read_header(team):
    data = (team / "weights.safetensors").read_bytes()
    return json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])


def entry(team, name, **changes):
    header = read_header(team)
    write_header(team, header | {name: header[name] | changes})


def swap(team, first, second):
    """Two arrays of one size, the second one's place said for both."""
    header = read_header(team)
    assert header[first]["shape"] == header[second]["shape"]
    entry(team, first, data_offsets=header[second]["data_offsets"])


def number(team, value):
    """Another last number of the weights."""
    path = team / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + struct.pack("<f", value))
    rehash(team)


def replace(path, make):
    path.unlink()
    make(path)


def grow(path, size):
    with path.open("r+b") as file:
        file.truncate(size)


def agents(team, *entries):
    path = team / "contract.json"
    contract = json.loads(path.read_text())
    path.write_text(json.dumps(contract | {"agents": [contract["agents"][0] | entry for entry in entries]}))


def contract_text(text):
    return lambda team: (team / "contract.json").write_text(text)


CONTRACT, WEIGHTS = "contract.json", "weights.safetensors"
HOSTILE = {
    "a contract that is a pipe": (lambda team: replace(team / CONTRACT, os.mkfifo), "is no regular file"),
    "weights that are a pipe": (lambda team: replace(team / WEIGHTS, os.mkfifo), "is no regular file"),
    "a device": (lambda team: replace(team / WEIGHTS, lambda p: p.symlink_to("/dev/zero")), "is no regular file"),
    "a folder": (lambda team: replace(team / WEIGHTS, Path.mkdir), "is no regular file"),
    "a link to itself": (lambda team: replace(team / CONTRACT, lambda p: p.symlink_to(p)), "cannot be read"),
    "a contract of a terabyte": (lambda team: grow(team / CONTRACT, 1 << 40), "is larger than the 4,194,304 bytes"),
    "weights of a terabyte": (lambda team: grow(team / WEIGHTS, 1 << 40), "is larger than the"),
    "ten million digits": (contract_text('{"format": ' + "1" * 10_000_000 + "}"), "is larger than"),
    "a million digits": (contract_text('{"format": ' + "1" * 1_000_000 + "}"), "is no contract"),
    "a million lists": (contract_text("[" * 1_000_000), "is no contract"),
    "a hundred thousand objects": (contract_text('{"format":' * 100_000), "is no contract"),
    "a contract that is a list": (contract_text("[]"), "is no contract"),
    "NaN": (contract_text('{"format": NaN, "format_version": 1}'), "is no contract"),
    "one entry twice": (contract_text('{"format": 1, "format": 2, "format_version": 1}'), "is no contract"),
    "a format of many lines": (lambda team: edit(team, format="\n" * 10_000), "is in format"),
    "a format of lists": (lambda team: edit(team, format=[[]]), "is in format a list"),
    "a huge size": (lambda team: edit(team, network={"hidden_size": 10**30}), "network.hidden_size is missing, wrong"),
    "sizes of terabytes": (lambda team: edit(team, network={"hidden_size": 10**6}), "network is missing, wrong or too"),
    "a size that is a truth value": (lambda team: edit(team, network={"hidden_size": True}), "network.hidden_size is"),
    "a switch that is a number": (lambda team: edit(team, network={"layer_norm": 1}), "network.layer_norm is"),
    "no agents": (agents, "agents is missing"),
    "one name twice": (lambda team: agents(team, {}, {}), "one name for two agents is"),
    "a name of two lines": (lambda team: agents(team, {"name": "a\nb"}), "agents[0].name is"),
    "a name that is a list": (lambda team: agents(team, {"name": []}), "agents[0].name is"),
    "an agent larger than the team": (lambda team: agents(team, {"obs_size": 12}), "agents[0].obs_size is"),
    "an agent without actions": (lambda team: agents(team, {"actions": []}), "agents[0].actions is"),
    "a shield that is a number": (lambda team: edit(team, shield=1), "shield is"),
    "no hash": (lambda team: edit(team, sha256=None), "sha256 is"),
    "a hash that is a number": (lambda team: edit(team, sha256={WEIGHTS: 1}), "sha256.weights.safetensors is"),
    "a header of lists": (lambda team: write_header(team, "[" * 60_000), "no safetensors file"),
    "a header that is no object": (lambda team: write_header(team, []), "no safetensors file"),
    "an array twice": (lambda team: write_header(team, '{"q": 1, "q": 2}'), "no safetensors file"),
    "an array that is none": (lambda team: write_header(team, {"q": None}), "no safetensors file"),
    "an unknown array": (
        lambda team: entry_of("\n../x", team),
        "'\\n../x' has shape (1,), and contract.json says None",
    ),
    "negative sizes": (lambda team: entry(team, "q", shape=[-8, -5]), "'q' has shape (-8, -5)"),
    "sizes of sizes": (lambda team: entry(team, "q", shape=[[[8]], 5]), "'q' has shape a list"),
    "a thousand sizes": (lambda team: entry(team, "q", shape=[1] * 1000), "'q' has shape a list"),
    "other numbers": (lambda team: entry(team, "q", dtype="F16"), "'q' is not (8, 5) numbers of float32"),
    "overlapping arrays": (lambda team: swap(team, "norm_bias", "norm_scale"), "numbers of float32 from byte"),
    "a place before the file": (lambda team: entry(team, "q", data_offsets=[-160, 0]), "numbers of float32 from byte"),
    "a place behind the file": (
        lambda team: entry(team, "q", data_offsets=[10**9, 10**9 + 160]),
        "of float32 from byte",
    ),
    "a place that goes backward": (
        lambda team: entry(team, "q", data_offsets=[160, 0]),
        "numbers of float32 from byte",
    ),
    "no place": (lambda team: entry(team, "q", data_offsets=[]), "numbers of float32 from byte"),
    "a place in words": (lambda team: entry(team, "q", data_offsets="ab"), "no safetensors file"),
    "more bytes": (
        lambda team: (grow(team / WEIGHTS, 8 + (team / WEIGHTS).stat().st_size), rehash(team)),
        "8 bytes follow",
    ),
    "NaN weights": (lambda team: number(team, float("nan")), "'q_bias' holds numbers that are not finite"),
    "infinite weights": (lambda team: number(team, float("-inf")), "'q_bias' holds numbers that are not finite"),
}


def entry_of(name, team):
    write_header(team, read_header(team) | {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})


def refusal(team):
    """What is said of the team, in one line within a second; '' where it is taken."""
    began = time.perf_counter()
    try:
        DecentralisedAgent(team, agent="listener_0")
        said = ""
    except ValueError as error:  # ArtifactError, or the agent's name was changed
        said = str(error)
    assert time.perf_counter() - began < 1
    assert said.isprintable() and len(said) < 1_000
    return said


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_artifact_is_refused_in_one_line_at_once(team, name):
    spoil, message = HOSTILE[name]
    spoil(team)
    assert message in refusal(team)


JSON = [None, True, -1, 0, 10**40, 1e300, "", "\x00\n", "x" * 10_000, [], [[]], {}, {"": {}}]


def places(value, path=()):
    """The path of everything within a JSON value."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield from places(item, (*path, key))


def exchanged(value, path, new):
    """A JSON value with something else at a path."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = exchanged(value[path[0]], path[1:], new)
    return copy


def test_a_contract_or_header_with_anything_anywhere_is_taken_or_refused_in_one_line_at_once(team):
    contract, header, rng = json.loads((team / CONTRACT).read_text()), read_header(team), random.Random(0)
    for path in places(contract):
        (team / CONTRACT).write_text(json.dumps(exchanged(contract, path, rng.choice(JSON))))
        refusal(team)
    (team / CONTRACT).write_text(json.dumps(contract))
    for path in places(header):
        for new in rng.sample(JSON, 3):
            write_header(team, exchanged(header, path, new))
            assert refusal(team) or path[:1] == ("__metadata__",), path


def test_whatever_bytes_change_the_artifact_is_taken_or_refused_in_one_line_at_once(team):
    whole, rng = {name: (team / name).read_bytes() for name in (CONTRACT, WEIGHTS)}, random.Random(1)
    for trial in range(300):
        for name, data in whole.items():
            (team / name).write_bytes(data)
        name = (CONTRACT, WEIGHTS)[trial % 2]
        data = bytearray(whole[name])
        place = rng.randrange(len(data) if name == CONTRACT else 1_000)
        change = rng.choice(["flip", "cut", "insert", "repeat"])
        if change == "flip":
            data[place] ^= 1 << rng.randrange(8)
        elif change == "cut":
            del data[place:]
        elif change == "insert":
            data[place:place] = rng.randbytes(rng.randrange(1, 50))
        else:
            data[place:place] = data[place : place + 200]
        (team / name).write_bytes(data)
        if name == WEIGHTS:
            assert refusal(team), "the hash tells"
            rehash(team)
        refusal(team)


DAMAGES = {
    "no folder": (shutil.rmtree, "is no exported team"),
    "no weights": (lambda team: (team / "weights.safetensors").unlink(), "weights.safetensors cannot be read"),
    "wrong sizes": (lambda team: edit(team, network={"hidden_size": 9}), "'bias' has shape (8,), and contract.json"),
    "other network": (lambda team: edit(team, network={"use_agent_id": True}), "'agent_id' has shape None"),
    "other version": (lambda team: edit(team, format_version=2), "version 2; this program reads qmix_jax.team version"),
    "other format": (lambda team: edit(team, format="other"), "is in format other"),
    "half a contract": (lambda team: cut(team / "contract.json", 200), "no contract of an exported team"),
    "contract without sizes": (lambda team: edit(team, network=None), "contract.json is damaged"),
    "empty weights": (lambda team: cut(team / "weights.safetensors", 0), "is cut short"),
    "half a header": (lambda team: cut(team / "weights.safetensors", 300), "is cut short"),
    "half the weights": (lambda team: cut(team / "weights.safetensors", -4), "is cut short"),
    "a flipped bit": (lambda team: flip(team / "weights.safetensors", -1), "is damaged"),
    "a damaged header": (lambda team: flip(team / "weights.safetensors", 8), "no safetensors file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_artifact_is_refused_in_one_line(team, damage):
    spoil, message = DAMAGES[damage]
    spoil(team)
    with pytest.raises(ArtifactError) as refused:
        DecentralisedAgent(team, agent="listener_0")
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_an_unknown_agent_is_answered_with_those_there_are(team):
    with pytest.raises(ValueError, match="no agent 'ally_0'; its agents are speaker_0, listener_0"):
        DecentralisedAgent(team, agent="ally_0")


OBS, LEGAL = np.linspace(-1, 1, 11), [True] * 5
INPUTS = {
    "nan": (np.where(np.arange(11) == 4, np.nan, OBS), LEGAL, r"observation\[4\] is nan"),
    "infinite": (np.where(np.arange(11) == 0, np.inf, OBS), LEGAL, r"observation\[0\] is inf"),
    "short": (OBS[:10], LEGAL, r"has shape \(10,\), not \(11,\)"),
    "a batch": (OBS[None], LEGAL, r"has shape \(1, 11\)"),
    "padded actions": (OBS, [True] * 6, r"available has shape \(6,\), not \(5,\)"),
    "nothing legal": (OBS, [False] * 5, "no action is legal"),
    "no truth values": (OBS, [0.5] * 5, "true and false only"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_that_cannot_be_is_refused_in_one_line_and_leaves_the_agent_as_it_was(team, name):
    agent, untouched = (DecentralisedAgent(team, agent="listener_0") for _ in range(2))
    agent.act(OBS, LEGAL), untouched.act(OBS, LEGAL)
    observation, available, message = INPUTS[name]
    with pytest.raises(ValueError, match=message) as refused:
        agent.act(observation, available)
    assert "\n" not in str(refused.value)
    for scale in (0.5, -1, 2):
        assert agent.act(scale * OBS, LEGAL) == untouched.act(scale * OBS, LEGAL)


# --- the command -------------------------------------------------------------------------------------------------

RULES = """
import numpy as np

def not_the_first(observation, state, available):
    return available & (np.arange(available.shape[-1]) != 0)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two seeds under a shield that forbids action 0, with which alone the probe world is won."""
    place = tmp_path_factory.mktemp("run")
    (place / "probe_rules.py").write_text(RULES)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        settings = merge(TINY, {"num_seeds": 2, "devices": 1, "env": {"shield": "probe_rules:not_the_first"}})
        assert experiment.run(from_mapping(settings), place / "folder", settings) == 0
        yield place / "folder"


def test_a_shield_holds_in_training_and_evaluation(finished):
    for row in read_metrics(finished / "metrics.jsonl"):
        assert row["train/win_rate"] == row["eval/win_rate"] == [0, 0]
    assert (finished / "policy.gif").exists()


def test_export_takes_the_best_seed_or_the_one_that_is_asked_for(finished, tmp_path, capsys):
    params = load_run(finished).all_params["agent"]
    best = best_seed(read_metrics(finished / "metrics.jsonl")[-1])
    for line, seed in {"": best, "--seed 0": 0, "--seed 1 --checkpoint last": 1}.items():
        out = tmp_path / f"team{len(line)}"
        assert cli.main(["export", str(finished), str(out), *line.split()]) == 0
        assert "probe" in capsys.readouterr().out
        np.testing.assert_array_equal(load_file(out / "weights.safetensors")["q"], params["q"][seed])
        provenance = json.loads((out / "contract.json").read_text())["provenance"]
        assert provenance["seed"] == seed and provenance["run"]["versions"]["jax"] == jax.__version__


def test_a_team_trained_with_a_shield_is_deployed_with_one(finished, tmp_path):
    out = tmp_path / "team"
    assert cli.main(["export", str(finished), str(out)]) == 0
    assert json.loads((out / "contract.json").read_text())["shield"] == "probe_rules:not_the_first"
    with pytest.raises(ValueError, match="trained with the shield probe_rules:not_the_first"):
        DecentralisedAgent(out, agent="agent_0")
    seen = []

    def only_the_last(observation, state, available):
        seen.append((observation, state, available))
        return np.arange(4) == 3

    agent = DecentralisedAgent(out, agent="agent_0", shield=only_the_last)
    assert agent.act([0.5, 0, 0], [True, True, True, True]) == 3
    assert agent.act([0.5, 0, 0], [True, False, False, False]) == 0, "a shield that leaves nothing is not obeyed"
    assert seen[0][1] is None and seen[0][0].shape == (3,)


BAD = {
    "no run": ("{tmp} {tmp}/out", "is no run's folder"),
    "no such folder": ("{tmp}/nothing {tmp}/out", "there is no folder"),
    "a run of another version": ("{other} {tmp}/out", "unknown setting 'agent.heads'"),
    "no whole run": ("{cut} {tmp}/out", "holds no checkpoint"),
    "no such seed": ("{run} {tmp}/out --seed 2", "seed=2, but the run has 2"),
    "no such checkpoint": ("{run} {tmp}/out --checkpoint nonsense", "checkpoint=nonsense"),
    "no seed": ("{run} {tmp}/out --seed x", "argument --seed: invalid int value: 'x'"),
    "nothing said": ("", "arguments are required: RUN, OUT"),
    "a folder that is full": ("{run} {run}", "exists already"),
    "a place that cannot be": ("{run} /dev/null/out", "/dev/null/out cannot be written"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_one_clear_line(finished, tmp_path, capsys, name):
    places = {"tmp": tmp_path / "empty", "run": finished, "other": tmp_path / "other", "cut": tmp_path / "cut"}
    for place in ("tmp", "other", "cut"):
        places[place].mkdir()
    settings = (finished / "config.yaml").read_text()
    (places["cut"] / "config.yaml").write_text(settings)
    (places["other"] / "config.yaml").write_text(settings.replace("hidden_size:", "heads: 2\n  hidden_size:"))
    line, message = BAD[name]
    assert cli.main(["export", *line.format(**places).split()]) == 2
    said = capsys.readouterr().err
    assert message in said and said.startswith("qmix-jax: error: ") and said.count("\n") == 1
    assert not list(places["tmp"].iterdir())


def test_help_says_how(capsys):
    assert cli.main(["export", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("RUN", "OUT", "--checkpoint", "--seed"))
