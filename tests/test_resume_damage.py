"""Damaged checkpoints are skipped, and settings edited on disk are found, before a run resumes."""

import json
import os
import shutil
import zlib
from pathlib import Path

import pytest
import yaml
from conftest import merge, tiny
from resuming import LONG, assert_same_end, numbers, train

from qmix_jax import deployed_agent, records
from qmix_jax.build import from_mapping
from qmix_jax.records import read_metrics
from qmix_jax.run import checkpoint as checkpoint_module
from qmix_jax.run import exits, experiment, resume
from qmix_jax.run.checkpoint import Checkpoint, checkpoints, find
from qmix_jax.run.trained import load_run
from qmix_jax.settings import ConfigError

pytestmark = pytest.mark.usefixtures("shared_programs")

# --- broken on disk ----------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def files(folder: Path, item: str) -> list[Path]:
    return sorted(path for path in (folder / "checkpoints" / "192" / item).rglob("*") if path.is_file())


def largest(folder: Path, item: str) -> Path:
    return max(files(folder, item), key=lambda path: path.stat().st_size)


def in_manifest(folder: Path, keep, *more: str) -> None:
    """Let the manifest of the newest checkpoint list only some files, and others."""
    path = folder / "checkpoints" / "192" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = {name: entry for name, entry in manifest["files"].items() if keep(name)}
    manifest["files"] |= {name: [*checkpoint_module._size_and_crc(path.parent / name)] for name in more}
    path.write_text(json.dumps(manifest))


DAMAGE = {
    "a flipped bit in the replay": lambda folder: flip(largest(folder, "replay")),
    "a flipped bit in the state": lambda folder: flip(largest(folder, "state")),
    "a flipped bit in the parameters": lambda folder: flip(largest(folder, "params")),
    "a truncated file": lambda folder: os.truncate(largest(folder, "replay"), 10),
    "a lost file": lambda folder: largest(folder, "state").unlink(),
    "a flipped bit in the rows": lambda folder: flip(folder / "checkpoints/192/metrics.jsonl"),
    "a flipped bit in about.json": lambda folder: flip(folder / "checkpoints/192/about.json"),
    "no manifest": lambda folder: (folder / "checkpoints/192/manifest.json").unlink(),
    "an empty manifest": lambda folder: os.truncate(folder / "checkpoints/192/manifest.json", 0),
    "a manifest of nothing": lambda folder: in_manifest(folder, lambda name: False),
    "a manifest without parameters": lambda folder: in_manifest(folder, lambda name: "params/" not in name),
    "a manifest without the state": lambda folder: in_manifest(folder, lambda name: "state/" not in name),
    "a manifest without the replay": lambda folder: in_manifest(folder, lambda name: "replay/" not in name),
    "a manifest without the rows": lambda folder: in_manifest(folder, lambda name: name != "metrics.jsonl"),
    "a manifest without about.json": lambda folder: in_manifest(folder, lambda name: name != "about.json"),
    "a manifest of a file outside": lambda folder: in_manifest(folder, lambda name: True, "../160/about.json"),
    "a list for a manifest": lambda folder: (folder / "checkpoints/192/manifest.json").write_text("[]"),
    "a deeply nested manifest": lambda folder: (folder / "checkpoints/192/manifest.json").write_text("[" * 100_000),
    "a list for about.json": lambda folder: (folder / "checkpoints/192/about.json").write_text("[]"),
    "a file for a folder": lambda folder: (
        shutil.rmtree(folder / "checkpoints/192") or (folder / "checkpoints/192").touch()
    ),
    "an empty folder": lambda folder: shutil.rmtree(folder / "checkpoints/192") or (folder / "checkpoints/192").mkdir(),
}


def resume_point_of(folder: Path) -> resume.ResumePoint:
    """Where a run with the settings of `stopped` would resume."""
    return resume.find_resume_point(
        folder, experiment.check(from_mapping(merge(LONG, {"checkpoint": {"every_env_steps": 32}})))
    )


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_skipped_with_a_warning(copy, damage, capsys):
    damage(copy)
    point = resume_point_of(copy)
    assert point.env_steps == 160 and len(point.rows) == 5
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{copy}/checkpoints/192 is skipped: " in said


def refuse(error: Exception):
    """Reads fail with this error."""

    def fail(*args):
        raise error

    return fail


def without_manifests(opens):
    error = OSError(5, "Input/output error")
    return lambda path, *args: (refuse(error) if Path(path).name == "manifest.json" else opens)(path, *args)


UNREAD = {
    "a file": lambda patch: patch.setattr(checkpoint_module, "_size_and_crc", refuse(PermissionError(13, "denied"))),
    "the manifest": lambda patch: patch.setattr(deployed_agent.os, "open", without_manifests(os.open)),
    "the arrays": lambda patch: patch.setattr(Checkpoint, "read", refuse(MemoryError("9 GiB"))),
    "the store": lambda patch: patch.setattr(Checkpoint, "read", refuse(ValueError("too many\nopen files"))),
}


@pytest.mark.parametrize("fail", UNREAD.values(), ids=UNREAD)
def test_a_checkpoint_that_may_be_whole_is_not_written_anew(copy, fail):
    before = contents(copy)
    with pytest.MonkeyPatch.context() as patch:
        fail(patch)
        with pytest.raises(OSError, match=r"/192 may be whole, but it cannot be read: .*; make it readable, or move"):
            train(copy, LONG)
    assert contents(copy) == before
    assert resume_point_of(copy).env_steps == 192


def test_a_team_comes_from_an_older_checkpoint_where_the_newest_cannot_be_read(copy, monkeypatch, capsys):
    read = Checkpoint.read
    error = RuntimeError("Error opening zarr\ndriver")
    monkeypatch.setattr(
        Checkpoint, "read", lambda self, item: (refuse(error) if self.env_steps == 192 else read)(self, item)
    )
    assert load_run(copy).env_steps == 160
    assert "checkpoints/192 is skipped: it cannot be read: Error opening zarr driver\n" in capsys.readouterr().err


NEIGHBOURS = {
    "a list": "[]",
    "a word for a score": '{"score": "x", "metric": ["y"], "items": "params", "settings": 3, "wall_seconds": {}}',
    "NaN for a score": '{"score": NaN, "items": [1, null]}',
    "deep nesting": "[" * 100_000,
    "no JSON": "\xff",
}


@pytest.mark.parametrize("about", NEIGHBOURS.values(), ids=NEIGHBOURS)
def test_damaged_neighbours_stop_nothing(copy, never_stopped, about, capsys):
    (copy / "checkpoints" / "128" / "about.json").write_text(about)
    (copy / "run.json").write_text(about)
    for name in ("²", "007", "notes", "9" * 5000 if os.name == "nt" else "9" * 200):
        (copy / "checkpoints" / name).mkdir()
    (copy / "checkpoints" / "100").touch()
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    lines[1:1] = ["[]", '{"env_steps": "x"}', '{"env_steps": true}', "3", "[" * 100_000, '{"env_steps": 5']
    (copy / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    os.mkfifo(copy / "checkpoints" / "160" / "pipe")
    assert [row["env_steps"] for row in read_metrics(str(copy / "metrics.jsonl"))] == [32 * i for i in range(1, 7)]
    assert "metrics.jsonl: line 2, 3, 4, 5, 6 and others hold no row and are skipped" in capsys.readouterr().err
    for which in ("last", "best"):
        assert load_run(copy, which).env_steps > 128
    assert train(copy, LONG) == exits.DONE
    assert_same_end(copy, never_stopped)
    assert (copy / "checkpoints" / "notes").is_dir()


def test_rows_that_cannot_be_read_are_said_in_one_line(copy, monkeypatch):
    monkeypatch.setattr(records, "MAX_METRICS", 100)
    with pytest.raises(OSError, match=r"metrics.jsonl is larger than .*; make it readable, or move it away"):
        resume_point_of(copy)


def test_rows_without_a_checkpoint_are_not_thrown_away(copy):
    shutil.rmtree(copy / "checkpoints")
    before = contents(copy)
    with pytest.raises(
        ConfigError, match=r"6 rows in metrics.jsonl and no checkpoint.*To start from the beginning, delete .*/metrics"
    ):
        train(copy, LONG)
    assert contents(copy) == before


def test_before_its_first_whole_state_was_saved_a_run_starts_from_the_beginning(tmp_path, never_stopped):
    """The parameters of its best evaluation alone are there, as behind a kill."""
    assert train(tmp_path, LONG, stop_after=3) == exits.TERMINATED
    shutil.rmtree(tmp_path / "checkpoints" / "96")
    manifest = json.loads((tmp_path / "run.json").read_text())
    assert manifest["has_saved_its_state"] is True
    (tmp_path / "run.json").write_text(json.dumps({**manifest, "has_saved_its_state": False}))
    assert [each.is_for_score for each in checkpoints(tmp_path)] == [True]
    assert train(tmp_path, LONG) == exits.DONE
    assert_same_end(tmp_path, never_stopped)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_holds_no_evaluation_can_be_used_again(tmp_path, never_stopped):
    resume.require_place(tmp_path / "none", resumes=False)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 3")
    (tmp_path / "run" / "metrics.jsonl").write_text('{"env_ste')
    settings = merge(LONG, {})
    assert experiment.train(from_mapping(settings), tmp_path / "run", settings).status == exits.DONE
    assert_same_end(tmp_path / "run", never_stopped)


# --- settings that changed on the disk ---------------------------------------------------------------------------


def edit(folder: Path, change) -> dict:
    """Change config.yaml by hand, and merge as --resume does."""
    path = folder / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    change(settings)
    path.write_text(yaml.safe_dump(settings))
    return resume.merge_settings(folder, [])


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("learner", "gamma", 0.5),
        ("learner", "reward_scale", 2.0),
        ("agent", "hidden_size", 9),
        ("env", "ends", "truncated"),
    ],
)
def test_an_edited_setting_that_may_not_change_is_refused_before_anything_is_written(copy, section, name, value):
    settings = edit(copy, lambda settings: settings.setdefault(section, {}).update({name: value}))
    before = contents(copy)
    with pytest.raises(ConfigError, match=rf"another value of {section}\.{name} \(.* before, {value} now\)"):
        train(copy, settings)
    assert contents(copy) == before


def test_an_edited_setting_that_may_change_is_named(copy, capsys):
    settings = edit(copy, lambda settings: settings["learner"].update(td_lambda=0.25))
    assert train(copy, settings, logging={"display": "plain"}) == exits.DONE
    assert "changed: learner.td_lambda 0.8 -> 0.25" in capsys.readouterr().out


def test_a_setting_that_is_gone_from_config_yaml_is_taken_from_the_checkpoint(copy, never_stopped):
    settings = edit(copy, lambda settings: settings["learner"].pop("learning_rate"))
    assert train(copy, settings) == exits.DONE
    assert_same_end(copy, never_stopped)
    assert yaml.safe_load((copy / "config.yaml").read_text())["learner"]["learning_rate"] == 0.01


def in_about(folder: Path, change) -> None:
    """Change the settings that the newest checkpoint keeps, and its manifest with them."""
    path = folder / "checkpoints" / "192" / "about.json"
    about = json.loads(path.read_text())
    change(about["settings"])
    path.write_text(json.dumps(about))
    manifest = json.loads((path.parent / "manifest.json").read_text())
    manifest["files"]["about.json"] = [path.stat().st_size, zlib.crc32(path.read_bytes())]
    (path.parent / "manifest.json").write_text(json.dumps(manifest))


def test_settings_of_another_version_are_reported(copy, capsys, never_stopped):
    in_about(copy, lambda settings: settings["learner"].pop("adam_epsilon"))
    fewer = shutil.copytree(copy, copy.with_name("fewer"))
    assert train(fewer, LONG, logging={"display": "plain"}) == exits.DONE
    assert "another version of qmix_jax wrote the checkpoint; it did not have learner.adam_epsilon=1e-08" in (
        capsys.readouterr().out
    )
    assert_same_end(fewer, never_stopped)
    in_about(copy, lambda settings: settings["learner"].update(momentum=1))
    before = contents(copy)
    for attempt in (lambda: train(copy, LONG), lambda: load_run(copy)):
        with pytest.raises(
            ConfigError, match=r"192 was made by another version of qmix_jax: unknown setting 'learner.mom"
        ):
            attempt()
    assert contents(copy) == before


def test_settings_of_a_checkpoint_are_plain_values(copy):
    in_about(copy, lambda settings: settings["logging"]["wandb"].update(project="${oc.env:HOME}"))
    for attempt in (lambda: resume.merge_settings(copy, []), lambda: load_run(copy), lambda: train(copy, LONG)):
        with pytest.raises(ConfigError, match=r"192/about.json is damaged: .* is an interpolation"):
            attempt()


def test_a_team_is_used_with_the_settings_that_it_was_trained_with(copy, capsys):
    trained = load_run(copy).config
    edit(copy, lambda settings: settings["env"].update(episode_length=3))
    assert load_run(copy).config == trained
    said = capsys.readouterr().err
    assert "config.yaml was changed since" in said and "env.episode_length=3 (trained with 5)" in said


def test_a_run_of_an_older_version_without_settings_in_its_checkpoints_resumes(copy, never_stopped):
    for path in copy.glob("checkpoints/*/about.json"):
        about = json.loads(path.read_text())
        del about["settings"]
        path.write_text(json.dumps(about))
        manifest = json.loads((path.parent / "manifest.json").read_text())
        manifest["files"]["about.json"] = [path.stat().st_size, zlib.crc32(path.read_bytes())]
        (path.parent / "manifest.json").write_text(json.dumps(manifest))
    (copy / "run.json").write_text("{}")
    assert load_run(copy).env_steps == 192
    assert train(copy, resume.merge_settings(copy, [])) == exits.DONE
    assert_same_end(copy, never_stopped)


def test_a_change_of_any_file_of_a_checkpoint_is_found(copy):
    checkpoint = Checkpoint(copy / "checkpoints" / "192")
    assert checkpoint.flaw(to_resume=True) == ""
    for path in files(copy, "."):
        whole = path.read_bytes()
        if whole and path.name != "manifest.json":
            flip(path)
            assert str(path.relative_to(checkpoint.path)) in checkpoint.flaw(to_resume=True)
            path.write_bytes(whole)
    assert checkpoint.flaw(to_resume=True) == ""


def test_a_run_resumes_exactly_from_the_checkpoint_before_a_damaged_one(copy, never_stopped):
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"env_steps": 224}\n{"env_st')  # a row beyond the checkpoint, and half a one
    flip(largest(copy, "replay"))
    assert train(copy, LONG) == exits.DONE
    assert_same_end(copy, never_stopped)


def test_where_no_checkpoint_is_whole_nothing_is_thrown_away(copy):
    for checkpoint in checkpoints(copy):
        (checkpoint.path / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="none of its checkpoints is whole"):
        train(copy, LONG)
    assert len(numbers(copy)) == 6


def test_a_checkpoint_of_another_version_is_named(copy, capsys):
    path = copy / "checkpoints" / "192" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    assert find(copy).env_steps == 160
    assert "another version wrote it (format 99" in capsys.readouterr().err
    with pytest.raises(OSError, match=r"192 may be whole, but .*another version wrote it \(format 99"):
        train(copy, LONG)
    program = experiment.check(tiny(devices=1, agent={"hidden_size": 9}))
    with pytest.raises(ConfigError, match=r"float32\[1, .*8.*\] for seeds/learner/params/.* needs float32\[1, .*9"):
        find(copy).restore(program)
