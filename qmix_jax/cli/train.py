"""`qmix-jax train`: Hydra composes the jobs, `qmix_jax.sweep` runs them."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qmix_jax.build import from_mapping
from qmix_jax.cli.conf import conf_dir
from qmix_jax.cli.help import help_text
from qmix_jax.run import cluster, exits, startup
from qmix_jax.settings import require

if TYPE_CHECKING:
    from qmix_jax.cli.flags import Flags


def main(arguments: list[str]) -> int:
    """Train as the command line says; returns the exit status, the worst one of a sweep."""
    with exits.ended_by_signals():
        return train(arguments)


def train(arguments: list[str]) -> int:
    """As `main`, where signals are handled."""
    if not {"-h", "--help"}.isdisjoint(arguments):
        print(help_text(arguments))
        return 0
    resumed, arguments = take("resume", "a run's folder, or auto", arguments)
    retried, arguments = take("retry", "failed", arguments)
    processes, arguments = cluster.take_words(arguments)
    require(retried in ("", "failed"), f"retry={retried} is not known: it can be failed")
    if resumed not in ("", "auto"):
        require(not retried, "retry=failed is for sweeps; --resume RUN_FOLDER tries a single run again")
        with cluster.joined(processes):
            return resume_run(Path(resumed), arguments)
    from qmix_jax.cli.flags import parse_flags

    flags = parse_flags(arguments)
    if not flags.composes:
        return show(flags)
    from qmix_jax.cli.compose import compose_work, settings_as_yaml

    if flags.options.cfg:
        print(settings_as_yaml(flags.options))
        return 0
    is_single = flags.runs and not flags.options.multirun
    require(is_single or not processes.is_given, "distributed.* is for a run, whose processes each start the same line")
    with cluster.joined(processes if is_single else replace(processes, mode="off")):
        work = compose_work(flags.options)
        if not flags.runs:
            return show(flags)
        from qmix_jax.sweep import runner
        from qmix_jax.sweep.jobs import JobList

        resumes, retries = resumed == "auto", retried == "failed"
        if not isinstance(work, JobList):
            return work.run(resumes, retries)
        return runner.run(work, runner.Again.of(work, resumes, retries))


def take(word: str, values: str, arguments: list[str]) -> tuple[str, list[str]]:
    """The value of `--WORD X`, `--WORD=X` or `WORD=X` ('' without one), and the rest of the command line."""
    found, rest, words = "", [], iter(arguments)
    for each in words:
        name, equals, value = each.partition("=")
        if name not in (f"--{word}", word) or each == word:
            rest.append(each)
            continue
        found = value if equals else next(words, "")
        require(bool(found), f"{each} needs {values}")
    return found, rest


def resume_run(folder: Path, overrides: list[str]) -> int:
    """Resume the run in a folder, with its own settings and these overrides on top; returns the exit status."""
    startup.import_jax()
    from qmix_jax.run.resume import merge_settings

    settings = merge_settings(folder, overrides)
    config = from_mapping(settings)
    startup.start_jax([config.devices])
    from qmix_jax.run import experiment

    return experiment.train(config, folder, settings, resumes=True).status


def show(flags: "Flags") -> int:
    """Let Hydra show what the flags ask for, such as `--cfg job`; returns the exit status."""
    import hydra

    from qmix_jax.cli.store import fill_store

    def train(_: object) -> None:
        raise AssertionError("Hydra runs no job")

    fill_store({})
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra exits with 1, whatever the error
    before, sys.argv = sys.argv, ["qmix-jax", *flags.argv]  # where Hydra reads
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(train)()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        sys.argv = before
    return 0
