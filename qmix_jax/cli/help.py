"""The text of `qmix-jax train --help`."""

import textwrap
from collections.abc import Iterator, Sequence

from qmix_jax.build import from_mapping
from qmix_jax.cli.conf import choices, variants
from qmix_jax.settings import require

HELP = """\
usage: qmix-jax train [GROUP=CHOICE ...] [SETTING=VALUE ...] [-m]
       qmix-jax train --resume RUN_FOLDER [SETTING=VALUE ...]
       qmix-jax train --help settings [GROUP=CHOICE ...]     every setting, its default and its meaning

Train a team of agents, by default with QMIX on SMAX 2s3z.

Environment (env=..., its settings as env.NAME=...)
{env}
{variants}

Algorithm (algorithm=..., its settings as algorithm.NAME=...)
{algorithm}

Network of the agents (agent=..., its settings as agent.NAME=...)
{agent}

Preset (+preset=..., with the plus: an environment and settings, which the rest of the command line overrides)
{preset}

Parts of your own (docs/extending.md): env, algorithm and agent also take an import path, as do callbacks=[...]
  env=my_package.module:MyEnv         its settings are its constructor's arguments; qmix-jax check-env finds mistakes

Common settings
  env.map=3m                          another SMAX map
  env=mpe env.task=simple_reference   another task
  total_env_steps=1e6                 how long: environment steps of each seed
  seed=7 num_seeds=4                  four seeds (7 to 10) side by side in one program
  devices=1                           number of devices; auto: all that the work divides over, CPU cores included
  rollout.num_envs=64                 environments stepped at once
  learner.learning_rate=5e-4          learning rate
  learner.env_steps_per_update=256    update twice as often as by default
  exploration.decay_env_steps=500_000 explore longer
  agent.hidden_size=128               larger networks
  evaluation.every_env_steps=50_000   evaluate more often
  logging.wandb.mode=online           log to Weights & Biases (docs/dashboards.md)
  logging.tensorboard=true            write event files for TensorBoard
  checkpoint.every_env_steps=200_000  save checkpoints more often

Resuming (a resumed run gives the numbers of one that never stopped; docs/resume.md lists the exit statuses)
  --resume RUN_FOLDER                 continue from the newest complete checkpoint with the run's own settings; some can
                                      be changed after it (total_env_steps=5e6)
  resume=auto hydra.run.dir=FOLDER    start in FOLDER, or resume the run it holds: the same command line every time

Several hosts (docs/scaling.md; the same line on each, which Slurm, Open MPI, Kubernetes and TPU pods number)
  distributed=on                      one process of several; auto: where these started several; off: never
  distributed.coordinator_address=HOST:PORT distributed.num_processes=2 distributed.process_id=0
                                      where nothing numbers them: the address of process 0, how many, which one this is

Examples
  qmix-jax train +preset=demo
  qmix-jax train env=smax env.map=3m total_env_steps=1e6
  qmix-jax train env=mpe algorithm=vdn num_seeds=4
  qmix-jax train env=matrix 'env.payoff=[[1,0],[0,2]]'
  qmix-jax train -m algorithm=qmix,vdn seed=0,1     a sweep: every combination, as many at once as fill the machine

Sweeps (docs/sweeps.md; the same line with the same hydra.sweep.dir=FOLDER goes on, retry=failed repeats what failed)
  hydra.launcher.jobs=4               jobs at once
  hydra/launcher=together             jobs that differ only in numbers and seeds as one program; slurm, ray: a cluster
  hydra/sweeper=optuna                search, such as learner.gamma='interval(0.9,1)'; +search=smax, mpe, games: ready

Results go to runs/MAP-ALGORITHM/TIME_seedN below the current folder, those of a sweep to multirun/TIME/;
hydra.run.dir=FOLDER (a sweep: hydra.sweep.dir=FOLDER) sets another place. Time is counted in environment steps.

  --cfg job         print all settings of this command line and stop
  --config-dir DIR  look for choices in DIR too (DIR/env/mine.yaml becomes env=mine)
  --hydra-help      Hydra's own flags
"""


def help_text(arguments: Sequence[str] = ()) -> str:
    """What `qmix-jax train` prints for a command line with --help: `--help settings` explains each setting."""
    words = [word for word in arguments if word not in ("-h", "--help")]
    if "settings" in words:
        words.remove("settings")
        return _settings(words)
    tables = {group: _table(group) for group in ("env", "algorithm", "agent", "preset")}
    return HELP.format(**tables, variants="\n".join(_variants())).rstrip()


def _table(group: str) -> str:
    return "\n".join(f"  {name:<14} {text}" for name, text in choices(group).items())


def _variants() -> Iterator[str]:
    for env, (setting, values) in variants().items():
        head, text = f"  {f'env.{setting}=...':<14} ", f"({env}) {' '.join(values)}"
        yield textwrap.fill(text, 120, initial_indent=head, subsequent_indent=" " * len(head))


def _settings(overrides: list[str]) -> str:
    from qmix_jax.cli.compose import compose
    from qmix_jax.cli.settings_text import settings_text

    require({"-m", "--multirun"}.isdisjoint(overrides), "--help settings explains one run; leave out -m")
    return settings_text(from_mapping(compose(overrides)))
