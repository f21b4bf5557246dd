"""`qmix-jax train`: Hydra composes the jobs, `qmix_jax.sweep.jobs` runs them."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from qmix_jax.cli.conf import choices, conf_dir
from qmix_jax.config import from_mapping, require
from qmix_jax.run import startup

if TYPE_CHECKING:
    from qmix_jax.cli.flags import Flags


def main(arguments: list[str]) -> int:
    """Train as the command line says; returns the exit status, the worst one of a sweep."""
    if not {"-h", "--help"}.isdisjoint(arguments):
        print(help_text())
        return 0
    resumed, arguments = take_resume(arguments)
    if resumed not in ("", "auto"):
        return resume_run(Path(resumed), arguments)
    from qmix_jax.cli.flags import parse_flags

    flags = parse_flags(arguments)
    if not flags.composes:
        return show(flags)
    from qmix_jax.cli.compose import compose_jobs

    job_list = compose_jobs(flags.options)
    if not flags.runs:
        return show(flags)
    from qmix_jax.sweep import jobs

    return jobs.run(job_list, resumes=resumed == "auto")


def take_resume(arguments: list[str]) -> tuple[str, list[str]]:
    """The value of `--resume X`, `--resume=X` or `resume=X` ('' without one), and the rest of the command line."""
    found, rest, words = "", [], iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name not in ("--resume", "resume") or word == "resume":
            rest.append(word)
            continue
        found = value if equals else next(words, "")
        require(bool(found), f"{word} needs a run's folder, or auto")
    return found, rest


def resume_run(folder: Path, overrides: list[str]) -> int:
    """Resume the run in a folder, with its own settings and these overrides on top; returns the exit status."""
    startup.import_jax()
    from qmix_jax.run.resume import merge_settings

    settings = merge_settings(folder, overrides)
    config = from_mapping(settings)
    startup.start_jax([config.devices])
    from qmix_jax.run import experiment

    return experiment.run(config, folder, settings, go_on=True)


def show(flags: "Flags") -> int:
    """Let Hydra show what the flags ask for, such as `--cfg job`; returns the exit status."""
    import hydra

    def train(_: object) -> None:
        raise AssertionError("Hydra runs no job")

    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra exits with 1, whatever the error
    before, sys.argv = sys.argv, ["qmix-jax", *flags.argv]  # where Hydra reads
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(train)()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        sys.argv = before
    return 0


# --- help --------------------------------------------------------------------------------------------------------

HELP = """\
usage: qmix-jax train [GROUP=CHOICE ...] [SETTING=VALUE ...] [-m]
       qmix-jax train --resume RUN_FOLDER [SETTING=VALUE ...]

Train a team of agents. With nothing said: QMIX on SMAX 2s3z.

Environment (env=..., its settings as env.NAME=...)
{env}
  env.map=...    (smax) 2s3z 3m 25m 3s5z 8m 5m_vs_6m 10m_vs_11m 27m_vs_30m 3s5z_vs_3s6z 3s_vs_5z 6h_vs_8z
                 smacv2_5_units smacv2_10_units smacv2_20_units
  env.task=...   (mpe) simple_spread simple_reference simple_speaker_listener

Algorithm (algorithm=..., its settings as algorithm.NAME=...)
{algorithm}

Preset (+preset=..., with the plus; brings its environment and settings, and the rest of the command line overrides it)
{preset}

The commonest settings
  env.map=3m                          another SMAX map
  env=mpe env.task=simple_reference   another task
  total_env_steps=1e6                 how long: environment steps of each seed
  seed=7 num_seeds=4                  four seeds (7 to 10) side by side in one program
  devices=1                           as many devices; auto takes all that fit, CPU cores too
  rollout.num_envs=64                 environments at once
  learner.learning_rate=5e-4          step size
  learner.env_steps_per_update=256    update twice as often as by default
  exploration.decay_env_steps=500_000 explore for longer
  agent.hidden_size=128               larger networks
  evaluation.every_env_steps=50_000   evaluate more often
  logging.wandb.mode=online           report to Weights & Biases (docs/dashboards.md)
  logging.tensorboard=true            write event files for TensorBoard
  checkpoint.every_env_steps=200_000  save the whole state more often

Going on (a resumed run gives the numbers of one that never stopped; exit statuses are in docs/resume.md)
  --resume RUN_FOLDER                 with the run's own settings, from its newest whole checkpoint; settings after it
                                      (total_env_steps=5e6) change what may change
  resume=auto hydra.run.dir=FOLDER    begin in the folder, or go on if it holds a run: the same line again and again

Examples
  qmix-jax train +preset=demo
  qmix-jax train env=smax env.map=3m total_env_steps=1e6
  qmix-jax train env=mpe algorithm=vdn num_seeds=4
  qmix-jax train env=matrix 'env.payoff=[[1,0],[0,2]]'
  qmix-jax train -m algorithm=qmix,vdn seed=0,1     a sweep: each combination, one after the other

Results go to runs/MAP-ALGORITHM/TIME_seedN below the current folder, a sweep's to multirun/TIME/; hydra.run.dir=FOLDER
(a sweep: hydra.sweep.dir=FOLDER) says where else. Time is counted in environment steps everywhere.

  --cfg job         show all settings, with what the command line makes of them, and stop
  --config-dir DIR  look for choices in DIR too (DIR/env/mine.yaml becomes env=mine)
  --hydra-help      Hydra's own flags
"""


def help_text() -> str:
    """The text of `qmix-jax train --help`; the choices are read from the YAML files."""

    def table(group: str) -> str:
        return "\n".join(f"  {name:<14} {text}" for name, text in choices(group).items())

    return HELP.format(**{group: table(group) for group in ("env", "algorithm", "preset")}).rstrip()
