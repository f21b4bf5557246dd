"""An exported team: each agent alone in a process, on NumPy, plays as the team did in the compiled program."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY, best_legal, masks, merge, strange_values
from exporting import LEGAL, OBS, ON_NUMPY, TEAMS, play_in_processes
from safetensors.numpy import load_file

from qmix_jax import deployed_agent
from qmix_jax.build import from_mapping
from qmix_jax.cli import main as cli
from qmix_jax.cli.export import summary
from qmix_jax.deployed_agent import DecentralisedAgent
from qmix_jax.records import best_seed, read_metrics
from qmix_jax.run import experiment
from qmix_jax.run.export import compile_policy, export_team
from qmix_jax.run.trained import load_run
from qmix_jax.settings import ConfigError
from qmix_jax.types import AgentInput

# --- separate processes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(TEAMS))
def test_separate_processes_play_whole_episodes_as_the_team_in_the_graph(teams, name):
    play_in_processes(*teams[name], ON_NUMPY)


def test_importing_a_deployed_agent_imports_no_jax():
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
    spec, size = run.env.spec, run.config.agent.settings.hidden_size
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


def test_for_any_values_the_compiled_team_and_a_single_agent_take_the_best_legal_action(teams):
    run, folder = teams["spread"]
    q, legal, team = strange_values(50, 3, 5), masks(5), (31, 3)
    weights = run.params(0)["agent"] | {"q": jnp.zeros((3, 8, 5)), "q_bias": jnp.asarray(q[0])}
    policy = jax.export.deserialize(compile_policy(run, weights).serialize())
    inputs = jnp.zeros((*team, 8)), jnp.zeros(team, jnp.int32), jnp.ones(31, bool), jnp.zeros((*team, 18))
    compiled = policy.call(*inputs, jnp.asarray(legal[:, None].repeat(3, axis=1)))[2]
    np.testing.assert_array_equal(compiled, [[best_legal(q[0, i], mask) for i in range(3)] for mask in legal])
    agent = DecentralisedAgent(folder, agent="agent_0")
    agent._network.weights["q"] = np.zeros((8, 5), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for values in q.reshape(-1, 5):
            agent._network.weights["q_bias"] = values
            assert [agent.act(np.zeros(18), mask) for mask in legal] == [best_legal(values, mask) for mask in legal]


def test_an_agent_warns_once_that_its_values_are_not_finite(teams):
    agent = DecentralisedAgent(teams["speaker"][1], agent="listener_0")
    agent._network.weights |= {"q_bias": np.array([0, np.nan, 1, 0, 0], np.float32)}
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
    weights = agent._network.weights
    weights["obs"] = np.full_like(weights["obs"], 3e38)
    with pytest.warns(RuntimeWarning, match="^ally_1: "):
        assert agent.act(np.ones(agent.obs_size), np.arange(agent.num_actions) > 2) == 3


# --- the artifact ------------------------------------------------------------------------------------------------


def test_the_weights_are_plain_safetensors_and_shared_ones_are_there_once(teams):
    for run, folder in teams.values():
        stored = load_file(folder / "weights.safetensors")
        jax.tree.map(np.testing.assert_array_equal, stored, run.params(0)["agent"])
        network, num_agents = run.config.agent.settings, run.env.spec.num_agents
        lead = () if network.share_parameters else (num_agents,)
        assert stored["gru_recurrent"].shape == (*lead, 8, 24)


def test_the_contract_describes_the_inputs_of_every_agent(teams):
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


@dataclasses.dataclass(frozen=True)
class Goal:
    """A setting of an environment that is a group of settings."""

    size: int = 3
    place: tuple[int, int] = (1, 2)


def test_the_contract_holds_groups_of_settings_as_json(teams, tmp_path):
    run, _ = teams["speaker"]
    settings = dataclasses.make_dataclass("Settings", [("goal", Goal)])(Goal())
    env = dataclasses.replace(run.config.env, settings=settings)
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, env=env))
    contract = export_team(run, tmp_path / "team", 0, {})
    assert contract["environment"]["settings"] == {"goal": {"size": 3, "place": (1, 2)}}


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


@pytest.mark.parametrize("is_hashed", [True, False])
def test_a_team_exported_when_the_file_was_called_runtime_is_still_read(team, is_hashed):
    """Before that, the contract did not have its hash either."""
    (team / "deployed_agent.py").rename(team / "runtime.py")
    path = team / "contract.json"
    contract = json.loads(path.read_text())
    sha256 = contract["sha256"].pop("deployed_agent.py")
    contract["sha256"] |= {"runtime.py": sha256} if is_hashed else {}
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
    monkeypatch.setattr(deployed_agent, "MAX_CONTRACT", 1_000)
    with pytest.raises(ConfigError, match=r"cannot be exported: in contract.json, its length is more than a reader"):
        export_team(teams["speaker"][0], tmp_path / "team", 0, {})
    assert not list(tmp_path.iterdir())


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
        assert experiment.train(from_mapping(settings), place / "folder", settings).status == 0
        yield place / "folder"


@pytest.mark.slow
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


@pytest.mark.parametrize("kept", [None, 0, 1])
def test_rows_that_are_lost_are_those_of_the_checkpoint(finished, tmp_path, capsys, kept):
    """The file is missing, empty, or holds one row: the best seed is still that of the last evaluation."""
    run, rows = tmp_path / "run", (finished / "metrics.jsonl").read_text().splitlines(keepends=True)
    shutil.copytree(finished, run)
    (run / "metrics.jsonl").unlink()
    if kept is not None:
        (run / "metrics.jsonl").write_text("".join(rows[:kept]))
    assert cli.main(["export", str(run), str(tmp_path / "team")]) == 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "metrics.jsonl is missing or not whole: the rows of the checkpoint" in said
    provenance = json.loads((tmp_path / "team" / "contract.json").read_text())["provenance"]
    assert provenance["last_evaluation"] == json.loads(rows[-1])


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


def test_a_mixer_of_an_import_path_is_named_by_its_class(tmp_path):
    provenance = {"algorithm": "my_package.v1:Mix", "seed": 0}
    contract = {"provenance": provenance, "environment": {"name": "probe"}, "agents": [{"name": "agent_0"}]}
    assert summary(contract, tmp_path).startswith("Exported: MIX on probe, seed 0, agents agent_0\n")


def test_help_says_how(capsys):
    assert cli.main(["export", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("RUN", "OUT", "--checkpoint", "--seed"))
