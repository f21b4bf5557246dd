"""`qmix-jax train`: Hydra chooses the settings, `qmix_jax.experiment` runs them."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from qmix_jax.cli.conf import choices, conf_dir
from qmix_jax.cli.startup import INTERRUPTED, report, start_jax
from qmix_jax.config import Config, ConfigError, from_mapping

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(arguments: list[str]) -> int:
    """Train as the command line says; returns the exit status, the worst one of a sweep."""
    if not {"-h", "--help"}.isdisjoint(arguments):
        print(help_text())
        return 0
    from qmix_jax.cli.compose import compose_jobs, parse_flags

    flags = parse_flags(arguments)
    jobs = compose_jobs(flags.options) if flags.composes else []
    if flags.runs:
        check([from_mapping(job) for job in jobs])
    return run_hydra(flags.argv, Jobs(len(jobs)))


def check(configs: list[Config]) -> None:
    """Start JAX, and raise ConfigError for the first job that cannot work on this machine."""
    start_jax([config.devices for config in configs])
    from qmix_jax import experiment

    checked: list[Config] = []
    for config in configs:
        alike = replace(config, seed=0)
        if alike not in checked:
            experiment.check(config)
            checked.append(alike)


@dataclass
class Jobs:
    """Runs each job that Hydra hands over, and keeps the worst exit status."""

    count: int
    argv: list[str] = field(default_factory=lambda: list(sys.argv))
    done: int = 0
    status: int = 0

    def run(self, settings: "DictConfig") -> None:
        """One job; an interrupt ends them all."""
        from hydra.core.hydra_config import HydraConfig

        from qmix_jax import experiment
        from qmix_jax.cli.compose import to_plain

        sys.argv = self.argv  # the run's records name the true command
        self.done += 1
        hydra = HydraConfig.get()
        if self.count > 1:
            print(f"job {self.done} of {self.count}: {' '.join(hydra.overrides.task)}", flush=True)
        plain = to_plain(settings)
        try:
            status = experiment.run(from_mapping(plain), Path(hydra.runtime.output_dir), plain)
        except ConfigError as error:
            status = report(error)
        self.status = max(self.status, status)
        if status == INTERRUPTED:
            sys.exit(status)


def run_hydra(argv: list[str], jobs: Jobs) -> int:
    """Let Hydra do what the command line says, with `jobs` as its task."""
    import hydra

    def train(settings: "DictConfig") -> None:
        jobs.run(settings)

    sys.argv = ["qmix-jax", *argv]  # where Hydra reads
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(train)()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        sys.argv = jobs.argv
    return jobs.status


# --- help --------------------------------------------------------------------------------------------------------

HELP = """\
usage: qmix-jax train [GROUP=CHOICE ...] [SETTING=VALUE ...] [-m]

Train a team of agents. With nothing said: QMIX on SMAX 2s3z.

Environment (env=..., its settings as env.NAME=...)
{env}

Algorithm (algorithm=..., its settings as algorithm.NAME=...)
{algorithm}

Preset (+preset=..., with the plus; brings its environment and settings, and the rest of the command line overrides it)
{preset}

The commonest settings
  env.map=3m                          another SMAX map
  env.task=simple_reference           another task (with env=mpe)
  total_env_steps=1e6                 how long: environment steps of each seed
  seed=7 num_seeds=4                  four seeds (7 to 10) side by side in one program
  devices=1                           as many devices; auto takes all that fit, CPU cores too
  rollout.num_envs=64                 environments at once
  learner.learning_rate=5e-4          step size
  learner.env_steps_per_update=512    update twice as often as by default
  exploration.decay_env_steps=500_000 explore for longer
  agent.hidden_size=128               larger networks
  evaluation.every_env_steps=50_000   evaluate more often
  logging.wandb.mode=online           report to Weights & Biases

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
