"""A package of somebody else (`site/depot`) with an environment, a mixer, a network and a callback does all that the
package's own parts do, from the command line, in any folder.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from test_import_paths import SITE, forget_installed

from qmix_jax.cli import main as cli
from qmix_jax.records import read_metrics
from qmix_jax.run.checkpoint import find
from qmix_jax.run.compilation import compile_quickly
from qmix_jax.run.program import Program

OWN = ["env=depot", "algorithm=weights", "agent=linear", "callbacks=[depot.parts:Notes]", "devices=1"]
QUIET = "logging.film=false"


@pytest.fixture(scope="module", autouse=True)
def installed():
    """The package on Python's search path; programs are compiled without optimisations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(SITE)])
        patch.setattr(Program, "_compile", lambda self, lowered: compile_quickly(lowered))
        forget_installed()
        yield
    forget_installed()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the package's parts."""
    folder = tmp_path_factory.mktemp("own") / "run"
    assert cli.main(["train", *OWN, QUIET, f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Commands run in another folder."""
    monkeypatch.chdir(tmp_path)


def test_training_gives_rows_with_its_metrics_and_calls_the_callback(run):
    rows = read_metrics(run / "metrics.jsonl")
    assert [row["env_steps"] for row in rows] == [64, 128] and all("eval/deliveries" in row for row in rows)
    assert (run / "notes.txt").read_text() == "64\n128\n"


def test_the_names_and_the_folder_stand_in_the_config(run):
    settings = OmegaConf.load(run / "config.yaml")
    assert (settings.env.name, settings.algorithm.name, settings.agent.name) == ("depot", "weights", "linear")
    assert settings.import_folders == [str(SITE)] and settings.env.num_robots == 2


def test_another_version_may_be_that_of_the_package(run, tmp_path, capsys):
    (tmp_path / "checkpoints").symlink_to(run / "checkpoints")
    settings = OmegaConf.load(run / "config.yaml")
    OmegaConf.save(OmegaConf.merge(settings, {"env": {"colour": "blue"}}), tmp_path / "config.yaml")
    assert cli.main(["evaluate", str(tmp_path)]) == 2
    line = "was made by another version of depot or weights or linear or qmix_jax: unknown setting 'env.colour'"
    assert line in capsys.readouterr().err


def test_evaluate_also_on_another_map(run, capsys):
    assert cli.main(["evaluate", str(run), "--episodes", "8", "--map", "large", "--json"]) == 0
    document = capsys.readouterr().out
    assert '"tested_on": "depot_large"' in document and '"deliveries"' in document
    assert cli.main(["evaluate", str(run), "--map", "lrge"]) == 2
    assert "--map=lrge is not known (did you mean 'large'?)" in capsys.readouterr().err


def test_render(run, tmp_path):
    assert cli.main(["render", str(run), "--out", "film.gif"]) == 0
    assert (tmp_path / "film.gif").read_bytes()[:6] == b"GIF89a"


@pytest.mark.slow
def test_report(run, capsys):
    assert cli.main(["report", str(run)]) == 0
    assert "## depot\n" in capsys.readouterr().out


def test_an_exported_agent_acts_where_neither_the_package_nor_qmix_jax_is(run, tmp_path, capsys):
    assert cli.main(["export", str(run), "team"]) == 0
    said = capsys.readouterr().out
    lines = [line.strip() for line in said.splitlines() if line.startswith(("  from ", "  agent ", "  action "))]
    code = ["import sys; sys.path.insert(0, 'team'); observation, available = [0.1] * 3, [True] * 2"]
    code += [*lines, "print(action, sorted({'qmix_jax', 'depot'} & set(sys.modules)))"]
    done = subprocess.run([sys.executable, "-I", "-c", "\n".join(code)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split(maxsplit=1)[1:]) == (0, ["[]\n"]), done.stderr


@pytest.mark.slow
def test_a_run_with_the_gru_is_exported_to_a_folder_and_resumed(run, tmp_path, capsys):
    folder = tmp_path / "gru"
    line = ["env=depot.env:Depot", "env.num_robots=3", "algorithm=depot.parts:Weights", "devices=1", QUIET]
    assert cli.main(["train", *line, f"hydra.run.dir={folder}"]) == 0
    assert cli.main(["export", str(folder), "team"]) == 0 and (tmp_path / "team" / "contract.json").is_file()
    assert cli.main(["train", "--resume", str(folder), "total_env_steps=192"]) == 0
    assert find(folder).env_steps == 192
    again = ["train", "--resume=auto", *line, "total_env_steps=192", f"hydra.run.dir={folder}"]
    assert cli.main(again) == 0 and "is complete: 192" in capsys.readouterr().out


@pytest.mark.slow
def test_a_sweep_trains_it_in_processes_and_each_command_finds_the_moved_module(tmp_path):
    """The module is in the current folder; afterwards it is moved, and the line that says so is obeyed."""
    (tmp_path / "mine.py").write_text("from depot.env import Depot\nfrom depot.parts import Linear, Notes, Weights\n")

    def run(*words, **variables):
        path = os.pathsep.join([str(Path(__file__).parents[1]), str(SITE), *variables.values()])
        command = [sys.executable, "-P", "-m", "qmix_jax", *words]
        return subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, text=True,
                              capture_output=True, check=False)  # fmt: skip

    parts = ["algorithm=mine:Weights", "agent=mine:Linear", "callbacks=[mine:Notes]", "devices=1", QUIET]
    sweep = run("train", "-m", "env=mine:Depot", "seed=1,2", *parts, "hydra.sweep.dir=many")
    assert sweep.returncode == 0, sweep.stderr
    first, second = (tmp_path / "many" / f"{i}_small-Weights_seed{i + 1}" for i in range(2))
    assert find(first).env_steps == find(second).env_steps == 128
    assert (second / "notes.txt").read_text() == "64\n128\n"
    (tmp_path / "moved").mkdir()
    (tmp_path / "mine.py").rename(tmp_path / "moved" / "mine.py")
    lost = run("evaluate", str(first), "--episodes", "8")
    assert lost.returncode == 2 and lost.stderr.count("\n") == 1
    assert "mine cannot be imported" in lost.stderr and "PYTHONPATH=FOLDER" in lost.stderr
    assert run("evaluate", str(first), "--episodes", "8", folder=str(tmp_path / "moved")).returncode == 0
