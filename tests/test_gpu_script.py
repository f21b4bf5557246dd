"""The script that measures on a GPU: a dry run of each step on the CPU, resuming, and no optional packages."""

import json
import math
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import tiny
from pictures import colourful, pixels

from qmix_jax.build import from_mapping
from qmix_jax.cli.compose import compose
from qmix_jax.run import experiment
from qmix_jax.run.plan import check as check_plan

ROOT = Path(__file__).resolve().parents[1]
GPU = ROOT / "experiments/gpu"
sys.path[:0] = [str(GPU), str(GPU.parent)]

import compare_jaxmarl  # noqa: E402
import compare_measure  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402
import steps  # noqa: E402
from steps import STEPS, Measurement, Plan  # noqa: E402

ABOUT = {
    "machine": {
        "python": "3.12.3",
        "cpu": "a cpu",
        "driver": "580.1",
        "devices": {"platform": "gpu", "kind": "a card", "count": 1},
        "versions": dict.fromkeys(("jax", "jaxlib", "flax", "optax"), "1"),
        "git": {"commit": "0123456789abcdef", "dirty": False},
    }
}


def script(*arguments, **environment):
    """measure.sh with this Python."""
    command = [str(GPU / "measure.sh"), *map(str, arguments)]
    return subprocess.run(
        command,
        env={**os.environ, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def files(out):
    return {path.relative_to(out).with_suffix("").as_posix(): json.loads(path.read_text()) for path in measured(out)}


def measured(out):
    return sorted(out.glob("step-*/*.json"))


# --- a dry run ---------------------------------------------------------------------------------------------------

OPTIONAL = "wandb", "tensorboardX", "av", "gymnax", "gymnasium", "flashbax", "seaborn", "pandas", "hydra_plugins"
WITHOUT = f"""
import sys
sys.modules.update(dict.fromkeys({OPTIONAL}))  # whoever imports one of them gets an ImportError
"""


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    """The folder of a dry run without JaxMARL and without anything optional, and its output."""
    out, without = tmp_path_factory.mktemp("dry"), tmp_path_factory.mktemp("without")
    (without / "sitecustomize.py").write_text(WITHOUT)
    done = script("--quick", "--out", out, PYTHONPATH=str(without))
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout


@pytest.mark.slow
def test_without_what_is_optional_training_and_bench_work_and_every_step_leaves_a_result(dry):
    found = files(dry[0])
    assert {name.split("/")[0] for name in found} == {f"step-{step}" for step in STEPS}
    for name, each in found.items():
        assert each["machine"]["devices"]["kind"] and each["machine"]["versions"]["jax"], name
        assert {"driver", "git"} <= set(each["machine"])
        assert each["status"] == ("skipped" if name.startswith("step-4") else "done"), each


@pytest.mark.slow
def test_jaxmarl_is_skipped_with_its_reason_where_no_checkout_is_given(dry):
    (skipped,) = [each for each in files(dry[0]).values() if each["status"] == "skipped"]
    assert skipped["reason"] == "no checkout of JaxMARL; name its folder"
    assert "skipped, no checkout of JaxMARL" in dry[1]


@pytest.mark.slow
def test_results_say_what_was_asked_for(dry):
    found = files(dry[0])
    errors = found["step-1/precision"]["result"]["errors"]
    assert set(errors) == {"default", "highest"} and errors["highest"]["product"] < 1e-5
    assert errors["highest"]["loss"] < 1e-4  # on the CPU it is the same program
    assert found["step-1/kernels-2s3z"]["result"]["compiled"]["kernels"] > 0
    assert found["step-1/tests-learner"]["result"]["failed"] == []
    assert found["step-2/2s3z"]["result"]["profile"]["operations"]
    assert found["step-3/2s3z-preset-gpu"]["result"]["env_steps_per_second"]["median"] > 0
    curve = found["step-5/2s3z"]["result"]["curve"]
    assert curve[-1]["env_steps"] == 192 and curve[-1]["wall_seconds"] > 0


@pytest.mark.slow
def test_the_report_has_every_step_and_both_pictures(dry):
    text = (dry[0] / "report.md").read_text()
    for step in (1, 2, 3, 5):
        assert f"## {step}. {steps.TITLES[step]}" in text
    assert "no checkout of JaxMARL" in text
    learning = pixels(dry[0] / "learning.png")
    assert learning.shape == (495, 880, 3) and colourful(learning) > 0.001


# --- resuming ----------------------------------------------------------------------------------------------------


def plan_of(out, *measurements, monkeypatch):
    """A plan whose first step is these measurements."""
    monkeypatch.setitem(STEPS, 1, lambda plan: iter(measurements))
    return Plan(out, quick=False, jaxmarl=None)


def one(name, seconds=60.0, lacks=""):
    return Measurement(name, "job", {"overrides": []}, seconds, lacks)


@pytest.fixture
def jobs(monkeypatch):
    """The jobs that were run, none of which does anything; `broken` fails."""
    ran = []

    def run_job(job, arguments, folder, seconds, quick):
        ran.append(folder.name)
        if folder.name == "broken":
            return {"status": "failed", "seconds": 1.0, "error": "ValueError: no"}
        return {"status": "cut off" if folder.name == "run" else "done", "seconds": 1.0, "result": {}}

    monkeypatch.setattr(measure, "run_job", run_job)
    return ran


def test_what_has_a_file_is_not_measured_again_unless_it_was_cut_off_or_skipped(tmp_path, jobs, monkeypatch):
    plan = plan_of(
        tmp_path, one("broken"), one("good"), one("run"), one("absent", lacks="no x"), monkeypatch=monkeypatch
    )
    measure.run_step(1, plan, ABOUT, 300)
    assert jobs == ["broken", "good", "run"]
    assert files(tmp_path)["step-1/broken"]["error"] == "ValueError: no"
    plan = plan_of(tmp_path, one("broken"), one("good"), one("run"), one("absent"), monkeypatch=monkeypatch)
    measure.run_step(1, plan, ABOUT, 300)
    assert jobs[3:] == ["run", "absent"]


def test_what_does_not_fit_into_the_rest_of_a_step_is_left_out_and_the_next_one_tried(tmp_path, jobs, monkeypatch):
    plan = plan_of(tmp_path, one("long", 200), one("short", 50), monkeypatch=monkeypatch)
    measure.run_step(1, plan, ABOUT, 100)
    assert jobs == ["short"]
    left_out = files(tmp_path)["step-1/long"]
    assert left_out["status"] == "skipped" and left_out["reason"].startswith("may take 200 s")


def test_what_a_run_has_reached_stays_where_no_time_is_left_to_go_on(tmp_path, jobs, monkeypatch):
    measure.run_step(1, plan_of(tmp_path, one("run"), monkeypatch=monkeypatch), ABOUT, 100)
    measure.run_step(1, plan_of(tmp_path, one("run"), monkeypatch=monkeypatch), ABOUT, 10)
    assert jobs == ["run"] and files(tmp_path)["step-1/run"]["status"] == "cut off"


def test_a_job_that_fails_or_takes_too_long_is_recorded(tmp_path):
    wrong = measure.run_job("speed", {"overrides": ["env=nowhere"]}, tmp_path / "a", 60, True)
    assert wrong["status"] == "failed" and "nowhere" in wrong["error"]
    late = measure.run_job("machine", {}, tmp_path / "b", 0.01, True)
    assert late == {"status": "failed", "seconds": late["seconds"], "error": "not done within 0 s"}


def test_every_step_fits_into_eight_minutes_and_all_into_thirty():
    assert max(steps.SECONDS.values()) <= 480 and sum(steps.SECONDS.values()) <= 1800
    for step, name in STEPS.items():
        measurements = list(name(Plan(Path("out"), quick=False, jaxmarl=Path("JaxMARL"))))
        assert len({each.name for each in measurements}) == len(measurements)
        assert max(each.seconds for each in measurements) <= steps.SECONDS[step]


def every_override():
    plan = Plan(Path("out"), quick=False, jaxmarl=None)
    for step, make in STEPS.items():
        for each in make(plan):
            if "overrides" in each.arguments:
                yield pytest.param(each.arguments["overrides"], id=f"{step}-{each.name}")


@pytest.mark.parametrize("overrides", every_override())
def test_every_measurement_has_settings_that_work(overrides):
    check_plan(from_mapping(compose(overrides)))


def test_the_tests_of_step_1_exist():
    for words in steps.ONE_DEVICE.values():
        assert (ROOT / words[0]).exists()


# --- the report --------------------------------------------------------------------------------------------------


def test_a_report_of_nothing_says_so(tmp_path):
    assert "Nothing is measured yet." in report.write(tmp_path).read_text()


def test_both_sides_speed_and_time_to_a_score_are_set_side_by_side(tmp_path):
    runs = {
        side: [{"steps_per_second": rate, "compile_seconds": 9.0}]
        for side, rate in zip(report.SIDES, (30, 10), strict=True)
    }
    scores = {
        "qmix_jax": [{"reached": True, "seconds": 12.0, "env_steps": 1000, "best": 0.6}],
        "JaxMARL": [{"reached": False, "seconds": 100.0, "env_steps": 9000, "best": 0.1}],
    }
    found = {
        "speed": {"comparisons": [{"case": "3m", "runs": runs}]},
        "score": {"comparisons": [{"case": "3m", "goal": 0.5, "runs": scores}]},
    }
    for name, result in found.items():
        measure.write(tmp_path / f"step-4/{name}.json", {**ABOUT, "name": name, "status": "done", "result": result})
    text = report.write(tmp_path).read_text()
    assert "a card (580.1)" in text and "commit 0123456789" in text
    assert "3.00" in text and "12.0 s (1,000 steps)" in text and "not within 100 s (9,000 steps), best 0.1" in text


# --- the preset --------------------------------------------------------------------------------------------------


def test_the_preset_for_accelerators_has_more_environments_and_as_many_updates_a_step():
    gpu, default = (from_mapping(compose(words)) for words in (["+preset=gpu"], []))
    experiment.check(gpu)
    assert gpu.rollout.num_envs == 256
    assert gpu == replace(default, rollout=gpu.rollout)


# --- arguments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--step", "7"], "invalid choice"),
        (["nowhere"], "nowhere is no checkout of JaxMARL; git clone"),
        (["--step", "report", "--out", "/dev/null/x"], "cannot make /dev/null/x: Not a directory; say --out FOLDER"),
    ],
)
def test_mistakes_are_one_line(arguments, says):
    done = script(*arguments)
    assert done.returncode != 0 and says in done.stderr.splitlines()[-1]


# --- wheels ------------------------------------------------------------------------------------------------------


def collect(folder, *named, size=100):
    """wheels.sh where pip brings files of these names."""
    pip = folder / "pip.sh"
    lines = [
        "#!/bin/sh",
        'while [ "$1" != --wheel-dir ]; do shift; done',
        *(f'head -c {size} /dev/zero > "$2/{name}"' for name in named),
    ]
    pip.write_text("\n".join(lines) + "\n")
    pip.chmod(0o755)
    command = [str(GPU / "wheels.sh"), str(folder / "wheels")]
    return subprocess.run(command, env={**os.environ, "PYTHON": str(pip)}, capture_output=True, text=True)


def test_wheels_that_are_pure_are_collected_and_named(tmp_path):
    done = collect(tmp_path, "a-1-py3-none-any.whl", "b-2-py2.py3-none-any.whl")
    assert done.returncode == 0
    assert done.stdout.splitlines()[:2] == ["a-1-py3-none-any.whl", "b-2-py2.py3-none-any.whl"]
    assert done.stdout.splitlines()[2].startswith("200 bytes in ")
    assert len(list((tmp_path / "wheels").iterdir())) == 2


def test_a_wheel_for_one_processor_is_refused_and_nothing_is_left(tmp_path):
    done = collect(tmp_path, "a-1-py3-none-any.whl", "c-1-cp312-cp312-manylinux_x86_64.whl")
    assert done.returncode == 1 and "c-1-cp312-cp312-manylinux_x86_64.whl; leave them out" in done.stderr
    assert not (tmp_path / "wheels").exists()


def test_more_than_fifty_megabytes_are_refused(tmp_path):
    done = collect(tmp_path, "a-1-py3-none-any.whl", size=50_000_001)
    assert done.returncode == 1 and "more than 50000000" in done.stderr


def test_without_a_folder_wheels_say_how_to_use_them():
    done = subprocess.run([str(GPU / "wheels.sh")], capture_output=True, text=True)
    assert done.returncode == 2 and "FOLDER" in done.stdout


def test_each_word_by_which_a_step_chooses_tests_is_the_name_of_some():
    for path, *words in steps.ONE_DEVICE.values():
        names = re.findall(r"^def (test_\w+)", (ROOT / path).read_text(), re.MULTILINE)
        of_pytest, of_a_parameter = {"and", "or", "not"}, {"devices"}
        chosen = {*re.findall(r"\w+", " ".join(words[1:]))} - of_pytest - of_a_parameter
        assert all(any(word in name for name in names) for word in chosen), path


def test_wheels_are_installed_beside_themselves_and_found(tmp_path):
    with zipfile.ZipFile(tmp_path / "brought-1-py3-none-any.whl", "w") as wheel:
        about = "brought-1.dist-info"
        wheel.writestr("brought.py", "")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: brought\nVersion: 1\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    assert script("--help", WHEELS=str(tmp_path)).returncode == 0
    assert (tmp_path / "installed/brought.py").exists()
    assert (tmp_path / "installed/complete").exists()


@pytest.mark.slow
def test_our_side_of_the_comparison_with_jaxmarl_trains_the_chunks_on_the_clock(monkeypatch):
    config = tiny()
    monkeypatch.setattr(compare_measure, "our_program", lambda overrides: experiment.check(config))
    found = compare_measure.our_speed([], warm_chunks=1, timed_chunks=2)
    assert found["updates"] == 2 * config.chunk_env_steps / config.learner.env_steps_per_update
    assert found["compile_seconds"] > 0 and found["seconds"] > 0


def test_a_run_is_over_at_its_first_score_that_reaches_the_goal_and_with_its_own_settings_at_its_end(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"env_steps": {n}, "eval/win_rate": [{n / 10}]}}\n' for n in (2, 9, 4)))
    goal = compare_jaxmarl.CASES["3m"].goal
    found = compare_jaxmarl.judge(path, goal, seconds=7.0)
    assert found["reached"] and (found["env_steps"], found["best"]) == (9, 0.9)
    run = compare_jaxmarl.judge(path, goal._replace(value=math.inf), seconds=7.0)
    assert not run["reached"] and (run["env_steps"], run["best"]) == (4, 0.9)
    assert run["curve"] == [[2, 0.2], [9, 0.9], [4, 0.4]]
    arguments = SimpleNamespace(
        algorithm="qmix", limit_steps=10, limit_seconds=9, eval_episodes=1, eval_every=2, devices=1
    )
    runs = {"qmix_jax": [run], "JaxMARL": [run]}
    table = compare_jaxmarl.show_own([{"case": "3m", "runs": runs}], arguments)
    assert "| 3m | 0 | 0.40 | 0.90 | 4 | 7 | 0.40 | 0.90 | 4 | 7 |" in table


def test_pqn_vdn_is_compared_with_own_settings_only(tmp_path):
    (tmp_path / "baselines/QLearning").mkdir(parents=True)
    for script in compare_measure.SCRIPTS.values():
        (tmp_path / script).touch()
    command = [sys.executable, "experiments/compare_jaxmarl.py", str(tmp_path), "--algorithm", "pqn_vdn"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].endswith("--algorithm pqn_vdn needs --own-settings")
