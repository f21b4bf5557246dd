"""`qmix-jax report`: compares finished runs."""

import argparse
from pathlib import Path

from qmix_jax.cli.arguments import Parser, count_from

SUFFIXES = (".pdf", ".png", ".svg", ".eps", ".jpg", ".jpeg", ".gif", ".md", ".html", ".tex", ".txt", ".csv", ".json")
"""Suffixes of files, to recognise an --out that was meant as a file."""

DESCRIPTION = """\
Compare runs: the interquartile mean of the last greedy evaluation over seeds and tasks with a 95 % stratified
bootstrap interval (of shares, such as win rates, no narrower than Wilson's over all episodes), learning curves, and
the probability that one algorithm scores higher than another (Agarwal et al. 2021).

Runs that differ only in their seeds form one group. Settings in which other runs differ become part of their names:
a sweep over learner.gamma compares its values."""

EXAMPLES = """\
examples
  qmix-jax train -m algorithm=qmix,vdn env.map=3m,2s3z num_seeds=5
  qmix-jax report multirun/*
  qmix-jax report runs/3m-qmix runs/3m-vdn --out plots"""

RUNS = """\
a run's folder, or any folder with runs below it, such as a sweep's; damaged, failed and empty runs are left out with a
warning"""

METRIC = """\
what to compare: any eval/NAME of metrics.jsonl, such as return or episode_length; by default win_rate, or return in
environments without it"""

AT = "compare at the first evaluation at or after this environment step, instead of the last"

OUT = """\
the folder to write to, by default report/: report.md (the table, also printed), report.png, charts.png (every metric
over environment steps), report.json, and marl_eval.json (for marl-eval)"""


def main(arguments: list[str]) -> int:
    """Write a report; returns the exit status."""
    parser = Parser("report", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help=RUNS)
    parser.add_argument("--metric", type=lambda name: name.removeprefix("eval/"), metavar="NAME", help=METRIC)
    parser.add_argument("--at", type=count_from(0), metavar="STEP", help=AT)
    parser.add_argument("--out", type=_folder, default=Path("report"), metavar="DIR", help=OUT)
    options = parser.parse_intermixed_args(arguments)
    from qmix_jax.analysis.report import write_report

    print(write_report(options.runs, options.out, options.metric, options.at))
    print(f"Written to {options.out}: report.md, report.png, charts.png, report.json, marl_eval.json")
    return 0


def _folder(text: str) -> Path:
    """The type of an argument that is a folder, which need not exist."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a file; name a folder")
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} looks like a file; name a folder, such as {path.with_suffix('')}")
    return path
