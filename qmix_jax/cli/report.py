"""`qmix-jax report`: what any runs show together."""

import argparse
from pathlib import Path
from typing import NoReturn

from qmix_jax.settings import ConfigError

FILES = (".pdf", ".png", ".svg", ".eps", ".jpg", ".jpeg", ".gif", ".md", ".html", ".tex", ".txt", ".csv", ".json")
"""What no folder's name ends in: somebody took --out for a file."""

USAGE = """\
usage: qmix-jax report RUN... [--out DIR]

Compare runs: the interquartile mean of the last greedy evaluation over seeds and tasks with a 95 % stratified
bootstrap interval (of win rates no narrower than Wilson's over all episodes), learning curves, and how likely one
algorithm beats another (Agarwal et al. 2021).

  RUN        a run's folder, or any folder with runs below it, such as a sweep's; what is damaged, failed or empty is
             left out with a warning
  --out DIR  the folder to write to, by default report/: report.md (the table, also printed), report.png, report.json,
             and marl_eval.json (the layout that marl-eval reads)

Runs that differ in nothing but seeds count as one group. Settings in which the others differ become part of their
names, so that a sweep over learner.gamma compares its values.

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

    print(write_report(options.runs, options.out))
    print(f"Written to {options.out}: report.md, report.png, report.json, marl_eval.json")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--out", type=_folder, default=Path("report"))
    parser.error = _refuse
    return parser.parse_intermixed_args(arguments)


def _folder(text: str) -> Path:
    """An argument's type: a folder, which need not exist yet."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a file; name a folder")
    if path.suffix.lower() in FILES and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} looks like a file; name a folder, such as {path.with_suffix('')}")
    return path


def _refuse(message: str) -> NoReturn:
    raise ConfigError(f"{message}; usage: qmix-jax report RUN... [--out DIR]")
