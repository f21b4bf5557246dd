"""The suite of SMAX maps: its plan, that it goes on where it was stopped, and what it leaves of its runs."""

import importlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import TINY
from run_folders import leave_run

from qmix_jax.build import from_mapping, make_agents, make_env
from qmix_jax.cli.compose import compose
from qmix_jax.files import write_json
from qmix_jax.records import read_manifest, read_metrics
from qmix_jax.run import exits, lock
from qmix_jax.run.trained import TrainedRun
from qmix_jax.settings import ConfigError, flatten

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "experiments" / "suite"
MODULES = ("plan", "run", "report", "script")


@pytest.fixture
def load(monkeypatch):
    """Imports a module of the suite; other experiments have modules of the same names."""
    monkeypatch.syspath_prepend(FOLDER)
    others = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.modules.update(others)


def tiny_jobs(plan, env_steps=192):
    """Two jobs on the probe world, with an evaluation every 64 steps."""
    others = ("env.name", "algorithm.", "total_env_steps")
    words = [f"{name}={value}" for name, value in flatten(TINY).items() if not name.startswith(others)]
    shared = ("env=probe", f"total_env_steps={env_steps}", "logging.film=false", "devices=1", *words)
    return tuple(plan.Job(f"probe-{name}", env_steps, (f"algorithm={name}", *shared)) for name in ("qmix", "vdn"))


def test_a_script_ends_in_one_line_or_where_it_is_interrupted_in_none(load):
    def raises(error):
        def main():
            raise error

        return main

    with pytest.raises(SystemExit, match=r"^values\.py: error: no such run$"):
        load("script").exit_with(raises(ConfigError("no such run")), "somewhere/values.py")
    with pytest.raises(SystemExit) as stopped:
        load("script").exit_with(raises(KeyboardInterrupt), "values.py")
    assert stopped.value.code == exits.INTERRUPTED


# --- the plan ----------------------------------------------------------------------------------------------------


def test_the_plan_has_every_map_with_five_seeds_and_every_method_on_the_nine_with_three(load):
    plan = load("plan")
    jobs = {job.name: job for job in plan.PLAN}
    assert len(jobs) == len(plan.PLAN) == 11 + 5 * 9 + 3 + 3 * 16 + 4
    assert [job.name for job in plan.PLAN[:2]] == ["3m-qmix", "8m-qmix"], "QMIX comes first"
    assert {"env.map=3s5z_vs_3s6z", "num_seeds=5", "total_env_steps=10000000"} <= set(
        jobs["3s5z_vs_3s6z-qmix"].overrides
    )
    assert {"num_seeds=3", "total_env_steps=5000000"} <= set(jobs["6h_vs_8z-qplex"].overrides)
    settings = compose([*jobs["2s3z-pqn_vdn"].overrides])
    assert settings["replay"]["capacity"] == 0 and settings["algorithm"]["name"] == "vdn"
    assert settings["exploration"]["decay_env_steps"] == 500_000, "a tenth of the run"


@pytest.mark.slow
def test_each_ablation_is_the_defaults_but_for_the_setting_that_it_names(load):
    plan = load("plan")
    jobs = {job.name: job for job in plan.PLAN}
    base = flatten(compose([*jobs["ablations/3s5z-none"].overrides]))
    assert (base["env.map"], base["num_seeds"], base["total_env_steps"]) == ("3s5z", 5, 2_500_000)
    for change, words in plan.CHANGES.items():
        overrides = jobs[f"ablations/3s5z-{change}"].overrides
        changed = flatten(compose([*overrides]))
        others = {name for name in base.keys() | changed.keys() if base.get(name) != changed.get(name)}
        named = tuple(word.partition("=")[0] for word in words)  # a setting, or the group of a choice
        assert bool(others) == bool(words) and all(name.startswith(named) for name in others)
        for other in ("smacv2_5_units", "5m_vs_6m"):
            there = jobs[f"ablations/{other}-{change}"].overrides
            assert [word.replace(f"env.map={other}", "env.map=3s5z") for word in there] == [*overrides]


# --- running -----------------------------------------------------------------------------------------------------


@pytest.fixture
def suite(load, monkeypatch):
    """The script with two tiny jobs, and the names of those that it trains: each writes its last evaluation, unless
    `statuses` gives it another exit status.
    """
    monkeypatch.setattr(load("plan"), "PLAN", tiny_jobs(load("plan")))
    script, trained, statuses = load("run"), [], {}

    def train(job):
        trained.append(job.folder.name)
        if job.folder.name not in statuses:
            leave_run(job.folder, [0.5], steps=(64, 128, 192))
        return statuses.get(job.folder.name, exits.DONE)

    monkeypatch.setattr(script, "run_alone", train)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    return script, trained, statuses


def test_a_finished_job_is_not_trained_again(suite, tmp_path, capsys):
    script, trained, _ = suite
    assert script.main(["--only", "probe-vdn", "--runs", str(tmp_path)]) == 0
    assert sys.argv[:3] == ["qmix-jax", "train", "algorithm=vdn"], "the command that run.json records"
    assert script.main(["--only", "probe", "--runs", str(tmp_path)]) == 0
    assert script.main(["--runs", str(tmp_path)]) == 0
    assert trained == ["probe-vdn", "probe-qmix"]
    capsys.readouterr()
    assert script.main(["--list", "--runs", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split() for line in said] == [[name, "192", "of", "192", "6s"] for name in ("probe-qmix", "probe-vdn")]


def test_a_job_that_fails_does_not_stop_the_others_and_a_signal_does(suite, tmp_path):
    script, trained, statuses = suite
    statuses["probe-qmix"] = exits.OUT_OF_MEMORY
    assert script.main(["--runs", str(tmp_path)]) == exits.OUT_OF_MEMORY
    assert trained == ["probe-qmix", "probe-vdn"]
    statuses["probe-qmix"] = 143
    assert script.main(["--runs", str(tmp_path)]) == 143 and trained[2:] == ["probe-qmix"]


def test_an_unknown_map_is_refused(suite, tmp_path, capsys):
    with pytest.raises(SystemExit):
        suite[0].main(["--only", "probe,4m", "--runs", str(tmp_path)])
    assert "the plan has no map and no job 4m; --list shows its jobs\n" in capsys.readouterr().err


KILLED = """
    import sys
    sys.path[:0] = [sys.argv.pop(1), sys.argv.pop(1)]
    import plan, run
    from test_suite import tiny_jobs
    plan.PLAN = tiny_jobs(plan, env_steps=3_200)
    sys.exit(run.main(["checkpoint.every_env_steps=640", "--runs", sys.argv[1]]))
"""


def is_free(folder: Path) -> bool:
    try:
        lock.require_unlocked(folder)
    except ConfigError:
        return False
    return True


def wait_for(condition, process=None) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end and (process is None or process.poll() is None)
        time.sleep(0.05)


@pytest.mark.slow
def test_killed_and_started_again_the_suite_goes_on_where_it_was(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(KILLED), FOLDER, Path(__file__).parent, tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command, env=environment)
    wait_for(lambda: list(tmp_path.glob("probe-qmix/checkpoints/*")), first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    wait_for(lambda: is_free(tmp_path / "probe-qmix"))  # on Linux the job ends with the suite
    assert not (tmp_path / "probe-vdn").exists()
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    for name, times_resumed in {"probe-qmix": 1, "probe-vdn": 0}.items():
        rows = read_metrics(tmp_path / name / "metrics.jsonl")
        assert [row["env_steps"] for row in rows] == list(range(64, 3_201, 64))
        assert len(read_manifest(tmp_path / name).get("resumed", [])) == times_resumed
        assert read_manifest(tmp_path / name)["command"][:2] == ["qmix-jax", "train"]


# --- results -----------------------------------------------------------------------------------------------------

MACHINE = {
    "command": ["qmix-jax", "train", "env.map=3m"],
    "cpu": "A processor",
    "devices": {"platform": "cpu", "kind": "cpu", "count": 2},
    "versions": {"jax": "0.10.1", "jaxmarl": "0.2.0"},
    "git": {"commit": "0123456789abcdef", "dirty": False},
    "energy": "RAPL",
}
USED = {"cpu_seconds": 7200.0, "accelerator_seconds": 0.0, "joules": 3.6e5}


def leave_job(runs, name, scores, steps=(1000, 2000, 3000)):
    env_map, _, algorithm = name.rpartition("/")[2].partition("-")
    more = (USED if name == "3m-qmix" else {}) | {
        "train/grad_norm": [1.0] * len(scores),
        "train/loss": [0.123456789] * len(scores),
    }
    env = {"name": "smax", "map": env_map}
    agent = {"name": "deep_sets" if name.startswith("deep_sets/") else "gru"}
    leave_run(runs / name, scores, env, algorithm or "qmix", steps=steps, more=more, agent=agent)
    write_json(runs / name / "run.json", MACHINE)


def test_ablations_are_a_table_of_each_map_and_apart_from_the_methods(load, tmp_path, monkeypatch):
    plan, script = load("plan"), load("report")
    names = ("3s5z-qmix", *(f"ablations/{name}" for name in ("3s5z-none", "3s5z-vdn", "5m_vs_6m-width_32", "3s5z-iql")))
    monkeypatch.setattr(plan, "PLAN", tuple(plan.Job(name, 3000, ()) for name in names))
    runs, out = tmp_path / "runs", tmp_path / "results"
    leave_job(runs, "3s5z-qmix", [0.9, 0.9])
    leave_job(runs, "ablations/3s5z-none", [0.6, 0.6])
    leave_job(runs, "ablations/3s5z-vdn", [0.3, 0.3])
    leave_job(runs, "ablations/5m_vs_6m-width_32", [0.0, 0.0])
    assert script.main(["--runs", str(runs), "--out", str(out)]) == 0
    text = (out / "report.md").read_text()
    assert "| qmix | 2 | 3,000 | 90.0 [" in text and "vdn | 2 | 3,000" not in text
    one_change = text.split("# One change at a time")[1].split("\n# Runs")[0]
    first, second, picture = (part.splitlines() for part in one_change.split("\n\n")[1:] if part.strip())
    assert picture[0].endswith("(ablations.png)") and (out / "ablations.png").stat().st_size > 10_000
    assert [line.split(" | ")[0] for line in first] == ["| 3s5z", "| ---", "| none", "| vdn"]
    assert first[3].startswith("| vdn | `algorithm=vdn` | 2 | 30.0 [") and first[3].endswith("| 20.0 [20.0, 20.0] |")
    assert second[0].startswith("| 5m_vs_6m |") and second[2].startswith(
        "| width 32 | `agent.hidden_size=32` | 2 | 0.0 ["
    )


@pytest.mark.slow
def test_entities_as_sets_stand_beside_the_default_network_on_their_maps_alone(load, tmp_path, monkeypatch):
    plan, script = load("plan"), load("report")
    names = ("3m-qmix", "8m-qmix", "deep_sets/3m")
    monkeypatch.setattr(plan, "PLAN", tuple(plan.Job(name, 3000, ()) for name in names))
    runs, out = tmp_path / "runs", tmp_path / "results"
    for name, score in zip(names, (0.6, 0.3, 0.9), strict=True):
        leave_job(runs, name, [score, score])
    write_json(
        runs / "deep_sets/3m" / "run.json", MACHINE | {"devices": {"count": 1, "platform": "gpu", "kind": "GPU"}}
    )
    assert script.main(["--runs", str(runs), "--out", str(out)]) == 0
    nine, sets, _ = (out / "report.md").read_text().split("\n# ")[1:]
    assert sets.startswith("QMIX with entities as sets") and "8m" not in sets and "agent=" not in nine
    assert "| 3m | agent=deep_sets | 2 | 3,000 | 90.0 [" in sets and "| 3m | agent=gru | 2 | 3,000 | 60.0 [" in sets
    assert (out / "nine_hours.png").exists() and (out / "deep_sets.png").exists()
    assert not (out / "deep_sets_hours.png").exists(), "hours of two machines do not compare"


@pytest.mark.slow
def test_what_is_finished_is_kept_small_and_reported_by_map_together_and_by_method(load, tmp_path, monkeypatch):
    plan, script = load("plan"), load("report")
    names = ("3m-qmix", "8m-qmix", "3m-vdn", "8m-vdn", "smacv2_5_units-qmix", "25m-qmix")
    monkeypatch.setattr(plan, "PLAN", tuple(plan.Job(name, 3000 - 1000 * ("vdn" in name), ()) for name in names))
    monkeypatch.setattr(plan, "SHORT", 2000)
    runs, out = tmp_path / "runs", tmp_path / "results"
    leave_job(runs, "3m-qmix", [0.9, 0.6])
    leave_job(runs, "8m-qmix", [0.3, 0.6])
    leave_job(runs, "3m-vdn", [0.3, 0.3], steps=(1000, 2000))
    leave_job(runs, "8m-vdn", [0.3, 0.3], steps=(1000, 2000))
    leave_job(runs, "smacv2_5_units-qmix", [0.3])
    leave_job(runs, "25m-qmix", [0.3], steps=(1000, 2000))  # not finished
    assert script.main(["--runs", str(runs), "--out", str(out)]) == 0
    kept = read_metrics(out / "3m-qmix" / "metrics.jsonl")
    assert kept[2]["eval/win_rate"] == [0.9, 0.6] and kept[2]["train/loss"] == [0.12346, 0.12346]
    assert "train/grad_norm" not in kept[2] and not (out / "25m-qmix").exists()
    text = (out / "report.md").read_text()
    nine, others, methods, made = text.split("\n# ")[1:]
    assert nine.startswith("QMIX on nine maps") and "| qmix | 2 | 3,000 | 60.0 [" in nine, "over both maps"
    assert "| smacv2_5_units | qmix | 1 | 3,000 | 30.0" in others and "3m" not in others
    assert "| qmix | 2 | 2,000 | 40.0 [" in methods and "| vdn | 2 | 2,000 | 30.0 [" in methods
    row = "| 3m | qmix | 0 1 | 3,000 | 6s | 2h00m of CPU time, 0.1 kWh | RAPL | 2 x A processor | jax 0.10.1, "
    assert row + "jaxmarl 0.2.0 | 0123456789 | `qmix-jax train env.map=3m` |" in made
    assert "| 8m | qmix | 0 1 | 3,000 | 6s | ? | RAPL |" in made
    assert "All runs together: 2h00m of CPU time, 0.1 kWh; 4 did not note it." in made
    pictures = {f"{name}{kind}.png" for name in ("nine", "others", "methods") for kind in ("", "_hours")}
    assert pictures <= {path.name for path in out.iterdir()}
    assert script.main(["--runs", str(runs), "--out", str(out), "--also", "25m-qmix"]) == 0
    assert "| 25m | qmix | 1 | 2,000 | 30.0" in (out / "report.md").read_text(), "named, a job is kept as far as it is"


# --- values ------------------------------------------------------------------------------------------------------


def test_values_are_compared_with_the_discounted_return_from_each_step_up_to_the_end(load):
    values = load("values")
    reward = np.array([[1.0], [2.0], [4.0], [9.0]])  # the last step comes after the end
    counts = np.array([[True], [True], [True], [False]])
    following = np.array([[3.0], [4.0], [4.0]])  # 1 + (2 + 4 / 2) / 2
    np.testing.assert_array_equal(values.returns(reward * counts, 0.5)[:3], following)
    steps = values.Step(
        q_tot=np.concatenate([2 * following + [[1.0], [-1.0], [0.0]], [[99.0]]]).repeat(50, axis=1),
        is_greedy=np.array([[True], [True], [False], [True]]).repeat(50, axis=1),
        reward=reward.repeat(50, axis=1),
        counts=counts.repeat(50, axis=1),
        units=np.array([[[2, 2]], [[2, 1]], [[2, 1]], [[2, 0]]]).repeat(50, axis=1),
        wins=np.zeros((4, 50)),
    )
    found = {name: cells for name, *cells in values.rows(steps, 0.5, scale=2.0)}
    variance = np.var(2 * following)
    assert found["all"] == ["100.0%", "7.33", "7.33", "0.00", "0.82", f"{1 - 2 / 3 / variance:.2f}"]
    assert found["2 against 1"][:4] == ["66.7%", "7.50", "8.00", "-0.50"] and "2 against 0" not in found
    assert found["some agent random"][:4] == ["33.3%", "8.00", "8.00", "0.00"]
    assert found["steps 0 to 0"][3] == "1.00" and found["steps 2 to 3"][0] == "33.3%"


# --- lookahead ---------------------------------------------------------------------------------------------------


def test_a_lookahead_finds_the_best_joint_action_that_an_untrained_team_misses(load):
    config = from_mapping(compose(["env=climbing", "algorithm=vdn", "agent.hidden_size=8"]))
    env = make_env(config.env)
    agents = jax.vmap(make_agents(config.agent, env).init)(jax.random.split(jax.random.key(0), 1))
    run = TrainedRun(config, env, {"agent": agents, "mixer": {}})
    lookahead = load("lookahead").Lookahead
    with pytest.raises(ConfigError, match=r"^--team=1, but the run has 1, numbered from 0$"):
        lookahead(run, team=1, candidates=512, tries=2)
    play = jax.jit(partial(lookahead(run, team=0, candidates=512, tries=2).play, 2))
    scores, _ = play(0, jax.random.key(0))
    np.testing.assert_array_equal(scores, [[11.0, 11.0]])
    missed, tried = play(1, jax.random.key(0))  # begins after the game's only step
    assert np.all(missed < 11)
    np.testing.assert_array_equal(tried.mean[0, :, 0], missed[0])  # the first candidate is greedy
    assert set(np.unique(tried.mean)) <= {11.0, -30.0, 0.0, 7.0, 6.0, 5.0} and np.all(tried.noise == 0)


def test_values_agree_with_what_candidates_gain_but_for_the_noise_of_the_mean(load):
    lookahead = load("lookahead")
    rng = np.random.default_rng(0)
    truth, noise = 2 * rng.normal(size=(4, 3000, 12)), 3 * rng.normal(size=(4, 3000, 12))
    counts = np.ones((4, 3000), bool)
    counts[2] = False
    state = 50 * rng.normal(size=(4, 3000, 1))
    tried = lookahead.Tried(q_tot=state + truth / 4, mean=truth + noise, noise=np.full(truth.shape, 9.0), counts=counts)
    ((steps, states, spread, of_values, correlation, _),) = lookahead.agreement(tried)
    assert (steps, states) == ("0 to 3", "9000")
    factor = np.sqrt(11 / 12)  # a mean over the candidates is taken off
    assert float(spread) == pytest.approx(2 * factor, abs=0.05) and float(of_values) == pytest.approx(
        factor / 2, abs=0.01
    )
    assert float(correlation) == pytest.approx(1, abs=0.02)
