"""`qmix-jax report`: runs compared."""

import argparse
from pathlib import Path
from typing import NoReturn

from qmix_jax.settings import ConfigError

FILES = (".pdf", ".png", ".svg", ".eps", ".jpg", ".jpeg", ".gif", ".md", ".html", ".tex", ".txt", ".csv", ".json")
"""Endings of files: --out names a folder."""

USAGE = """\
usage: qmix-jax report RUN... [--metric NAME] [--at STEP] [--out DIR]

Compare runs: the interquartile mean of the last greedy evaluation over seeds and tasks with a 95 % stratified
bootstrap interval (of shares, such as win rates, no narrower than Wilson's over all episodes), learning curves, and
the probability that one algorithm scores higher than another (Agarwal et al. 2021).

  RUN            a run folder, or any folder with runs below it, such as a sweep's; damaged, failed and empty runs are
                 left out with a warning
  --metric NAME  what to compare: any eval/NAME of metrics.jsonl, such as return or episode_length; by default win_rate,
                 or return in environments without it
  --at STEP      compare at the first evaluation at or after this environment step, instead of the last
  --out DIR      the folder to write to, by default report/: report.md (the table, also printed), report.png,
                 charts.png (every metric over environment steps), report.json, and marl_eval.json (for marl-eval)

Runs that differ only in their seeds form one group. Settings in which other runs differ become part of their names:
a sweep over learner.gamma compares its values.

Examples
  qmix-jax train -m algorithm=qmix,vdn env.map=3m,2s3z num_seeds=5
  qmix-jax report multirun/*
  qmix-jax report runs/3m-qmix runs/3m-vdn --out plots"""


def main(arguments: list[str]) -> int:
    """Write a report; returns the exit status."""
    if not {"-h", "--help"}.isdisjoint(arguments):
        print(USAGE)
        return 0
    options = _parse(arguments)
    from qmix_jax.analysis.report import write_report

    print(write_report(options.runs, options.out, options.metric, options.at))
    print(f"Written to {options.out}: report.md, report.png, charts.png, report.json, marl_eval.json")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--metric", type=lambda name: name.removeprefix("eval/"))
    parser.add_argument("--at", type=_step)
    parser.add_argument("--out", type=_folder, default=Path("report"))
    parser.error = _refuse
    return parser.parse_intermixed_args(arguments)


def _step(text: str) -> int:
    """The type of an argument in environment steps, such as 1_000_000."""
    if not text.replace("_", "").isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no whole number of environment steps")
    return int(text)


def _folder(text: str) -> Path:
    """The type of an argument that is a folder, which need not exist."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a file; name a folder")
    if path.suffix.lower() in FILES and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} looks like a file; name a folder, such as {path.with_suffix('')}")
    return path


def _refuse(message: str) -> NoReturn:
    raise ConfigError(f"{message}; usage: qmix-jax report RUN... [--metric NAME] [--at STEP] [--out DIR]")
