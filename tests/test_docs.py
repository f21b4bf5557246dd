"""The worked example of docs/new-mixer.md, followed exactly in a copy of the package."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pictures import colourful, pixels

from qmix_jax.records import read_metrics

ROOT = Path(__file__).parents[1]
SHORT = "num_seeds=2 total_env_steps=48_000 logging.film=false logging.display=none devices=1"


def blocks(language):
    text = (ROOT / "docs" / "new-mixer.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the checkout with what the document adds."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("qmix_jax", "conf", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    module, entry = blocks("python")
    (folder / "qmix_jax" / "mixers" / "hinge.py").write_text(module)
    registry = folder / "qmix_jax" / "mixers" / "__init__.py"
    before, head, after = registry.read_text().partition("    __name__,\n    {\n")
    registry.write_text(before + head + entry + after)
    return folder


def run(folder, command, *arguments):
    """A command line of the document, by the copy's package."""
    program, *words = shlex.split(command)
    module = ["-m", "qmix_jax"] if program == "qmix-jax" else []
    done = subprocess.run(
        [sys.executable, *module, *words, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_learns_what_a_sum_cannot(copy):
    activate, train, report = blocks("sh")[1].splitlines()
    assert activate == ". .venv/bin/activate"
    run(copy, train, *SHORT.split())
    run(copy, report)
    last = {path.parent.name: read_metrics(path)[-1] for path in copy.glob("multirun/hinge/*/metrics.jsonl")}
    scores = {name: row["eval/return"] for name, row in last.items()}
    assert scores == {"0_two_step-vdn_seed0": [7.0, 7.0], "1_two_step-hinge_seed0": [8.0, 8.0]}
    report_figure = pixels(copy / "hinge" / "report.png")
    assert report_figure.shape[1] > 600 and colourful(report_figure) > 0.001


def test_the_example_passes_every_test_of_the_registry(copy):
    make, test, arguments = shlex.split(blocks("sh")[0])
    assert (make, test, arguments[:5]) == ("make", "test", "ARGS=")
    assert "$(ARGS)" in (ROOT / "Makefile").read_text().partition("pytest")[2].splitlines()[0]
    assert "passed" in run(copy, f"python -m pytest {arguments[5:]}", "-p", "no:cacheprovider")
