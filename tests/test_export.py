"""A team leaves the house: each agent alone in a process, with NumPy, plays as the team did in the compiled program."""

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
from conftest import TINY, merge
from safetensors.numpy import load_file

from qmix_jax import experiment
from qmix_jax.agents.recurrent import AgentInput
from qmix_jax.checkpoint import TrainedRun, load_run
from qmix_jax.cli import main as cli
from qmix_jax.config import from_mapping
from qmix_jax.envs import make_env
from qmix_jax.envs.layout import layout_of
from qmix_jax.evaluate import greedy_policy
from qmix_jax.export import export_team
from qmix_jax.reporting.records import best_seed, read_metrics
from qmix_jax.runtime import ArtifactError, DecentralisedAgent

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
            hidden, action = agents.initial_hidden(1), jnp.full(env.spec.num_agents, env.spec.num_actions)
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
        "import sys; from qmix_jax.runtime import DecentralisedAgent; assert not {'jax', 'jaxlib'} & set(sys.modules)"
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
            hidden, q = jax.jit(run.agents.step)(run.params(0)["agent"], given["hidden"], inputs)
            np.testing.assert_allclose(found["q"], q, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(found["hidden"], hidden, rtol=1e-5, atol=1e-5)
            best = np.where(given["available"], q, -np.inf).argmax(-1)
            np.testing.assert_array_equal(found["action"], best)


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
