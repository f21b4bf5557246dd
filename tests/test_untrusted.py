"""The settings of an untrusted run: reading soon gives plain values or one line; nothing in its folder is imported."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TINY, merge, untrained_run
from omegaconf import OmegaConf

from qmix_jax.cli.main import main
from qmix_jax.run import startup
from qmix_jax.run.checkpoint import find
from qmix_jax.settings import ConfigError
from qmix_jax.untrusted import read_settings, read_yaml


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("run") / "run", TINY)


PLAIN = {
    "a": 1e-10,
    "b": 5e-5,
    "c": "2026-01-01",
    "d": [1, [2.5, None], True],
    "e": {"f": "x: y", "g": "1e-3"},
    "h": "é",
}


def test_settings_are_read_as_they_were_written(tmp_path):
    for settings in (TINY, PLAIN):
        path = tmp_path / "config.yaml"
        path.write_text(OmegaConf.to_yaml(OmegaConf.create(settings)))
        assert read_yaml(path) == settings == OmegaConf.to_container(OmegaConf.load(path))


def test_numbers_may_be_written_by_hand(tmp_path):
    (tmp_path / "config.yaml").write_text("learning_rate: 5e-5\nsteps: 10_000\n")
    assert read_yaml(tmp_path / "config.yaml") == {"learning_rate": 5e-5, "steps": 10_000}


HOSTILE = {
    "a bomb of aliases": ("a: &a [x, x]\nb: &b [*a, *a]\n", "an alias, which no run's settings have (line 2)"),
    "code": ("a: !!python/object/apply:os.system ['true']", "a tag, which no run's settings have"),
    "bytes": ("a: !!binary aGk=", "a tag"),
    "a hundred thousand levels": ("[" * 100_000, "config.yaml is damaged: "),
    "indented levels": ("a:\n" + "".join(" " * i + "a:\n" for i in range(1, 500)), "more than 32 levels"),
    "half a million values": ("a: [" + "0," * 500_000 + "]", "more than 50,000 values"),
    "many names": ("\n".join(f"k{i}: 1" for i in range(50_000)), "more than 50,000 values"),
    "a million digits": ("a: " + "1" * 1_000_000, "more than 1,000 characters in a value"),
    "digits to the base of 60": ("a: " + ":".join(["1"] * 400_000), "more than 1,000 characters in a value"),
    "a huge integer": ("a: 0x" + "f" * 900, "an integer is beyond 64 bits"),
    "an interpolation": ("a: ${oc.env:HOME}", "is an interpolation"),
    "nested interpolations": ("a: '" + "${a:" * 200 + "'", "is an interpolation"),
    "a name twice": ("a: 1\na: 2", "a name occurs twice in the mapping at line 1"),
    "a name of two lines": ('"a\\nb": 1', "is no setting's name"),
    "a value of two lines": ('a: "b\\nc"', "not printable"),
    "a name that is a number": ("1: 2", "1 is no setting's name"),
    "a name that is a list": ("? [a]\n: 1", "unhashable"),
    "two documents": ("a: 1\n---\na: 2", "but found another document"),
    "no YAML": ("a: [1\nb: }", "did not find expected"),
    "no text": (b"\xff\xfe\x00\xd8", "is damaged"),
    "a terabyte": (None, "is larger than the 1,048,576 bytes"),
    "a list": ("[]", "it holds no settings"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_settings_are_refused_in_one_line_at_once(tmp_path, name):
    text, message = HOSTILE[name]
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else (text or "").encode())
    if text is None:
        os.truncate(path, 1 << 40)
    began = time.perf_counter()
    with pytest.raises(ConfigError) as refused:
        read_settings(tmp_path)
    assert time.perf_counter() - began < 1
    assert message in str(refused.value) and str(refused.value).isprintable() and len(str(refused.value)) < 500


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_settings_that_are_no_regular_file_are_refused_without_waiting(tmp_path, make):
    make(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="is no run's folder"):
        read_settings(tmp_path)
    with pytest.raises(ConfigError, match="is no regular file"):
        read_yaml(tmp_path / "config.yaml")


def test_a_folder_of_runs_names_its_runs(tmp_path):
    for name in ("b", "a", "multirun/1"):
        (tmp_path / name).mkdir(parents=True)
        for file in ("config.yaml", "metrics.jsonl"):
            (tmp_path / name / file).touch()
    with pytest.raises(ConfigError) as refused:
        read_settings(tmp_path)
    runs = ", ".join(f"{tmp_path}/{name}" for name in ("a", "b", "multirun/1"))
    assert str(refused.value) == f"{tmp_path} is no run's folder: it has no config.yaml; choose one of {runs}"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_a_checkpoint_that_holds_a_pipe_or_a_device_has_a_flaw(run, tmp_path, make):
    shutil.copytree(run, tmp_path / "run")
    checkpoint = find(tmp_path / "run")
    assert not checkpoint.flaw()
    (checkpoint.path / "about.json").unlink()
    make(checkpoint.path / "about.json")
    assert checkpoint.flaw() == "about.json is missing, or no regular file"


# --- modules in a run's folder -----------------------------------------------------------------------------------

PLANTED = (
    "import pathlib; pathlib.Path(__file__).with_suffix('.ran').touch()\ndef leave(o, s, available): return available\n"
)
SHIELD = "planted_rules:leave"


@pytest.fixture
def stranger(run, tmp_path, monkeypatch):
    """The current folder: a run whose settings name a shield, with modules beside them that leave a mark when run."""
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    settings = merge(TINY, {"env": {"shield": SHIELD}})
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(settings)))
    monkeypatch.setattr(startup, "start_jax", lambda devices: None)
    for name in ("planted_rules", "json", "numpy", "jax", "matplotlib", "wandb", "torch", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(PLANTED)
    monkeypatch.chdir(tmp_path)
    return tmp_path


DECOYS = r"""
# env: {name: two_step, shield: null}
'env': {name: "pro\x62e", "shi\x65ld": planted_rules:Evil, episode_length: 5}
? algorithm
: {name: qmix}
"agent": {kind: planted_rules:Net}
'callbacks': [planted_rules:Watch]
"import_\x66olders": [.]
"""


def test_imports_names_what_a_run_would_import_however_it_is_written_and_imports_nothing(stranger, capsys):
    batch = stranger / "seeds" / "0-1" / "checkpoints" / "64"
    batch.mkdir(parents=True)
    (batch / "about.json").write_text(r'{"settings": {"algorith\u006d": {"name": "planted_rules\u003aMix"}}}')
    (stranger / "config.yaml").write_text(DECOYS)
    assert main(["imports", "."]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "config.yaml: agent.name=planted_rules:Net",
        "config.yaml: env.shield=planted_rules:Evil",
        "config.yaml: callbacks=['planted_rules:Watch']",
        "config.yaml: import_folders=['.']",
        "seeds/0-1/checkpoints/64/about.json: algorithm.name=planted_rules:Mix",
    ]
    assert not marks(stranger)


def test_imports_says_that_a_run_with_own_parts_alone_imports_nothing(run, capsys):
    assert main(["imports", str(run)]) == 0
    assert capsys.readouterr().out == f"{run}: its settings import nothing but qmix_jax\n"


def marks(folder):
    return {path.stem for path in folder.glob("*.ran")}


@pytest.mark.parametrize("line", ["evaluate .", "render .", "export . team", "train --resume ."])
def test_a_shield_of_a_runs_settings_is_not_sought_in_the_current_folder(stranger, capsys, line):
    assert main(line.split()) == 2
    said = capsys.readouterr().err
    assert "planted_rules cannot be imported (ModuleNotFoundError" in said and said.count("\n") == 1
    assert "the current folder has one: if you trust it, set PYTHONPATH=. before the command" in said
    assert not marks(stranger) and "" not in sys.path


def test_a_module_run_in_a_strangers_folder_imports_nothing_of_it(stranger):
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "qmix_jax", "evaluate", "."]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "planted_rules cannot be imported" in done.stderr
    assert not marks(stranger)


def test_the_current_folder_is_searched_only_while_a_command_line_that_names_a_shield_runs(stranger, capsys):
    assert main(["train", "env=probe", f"env.shield={SHIELD}", "algorithm=nothing"]) == 2
    assert "algorithm=nothing" in capsys.readouterr().err and "" not in sys.path
