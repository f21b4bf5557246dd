"""`qmix-jax report`: compares finished runs."""

import argparse
from pathlib import Path

from qmix_jax.cli.arguments import Parser, count_from

SUFFIXES = (".pdf", ".png", ".svg", ".eps", ".jpg", ".jpeg", ".gif", ".md", ".html", ".tex", ".txt", ".csv", ".json")
"""Suffixes of files, to recognise an --out that was meant as a file."""

DESCRIPTION = """\
Compare runs: the interquartile mean of the last greedy evaluation over seeds and tasks with a 95 % stratified
bootstrap interval (of shares, such as win rates, no narrower than Wilson's over all episodes), learning curves,
performance profiles, and the probability that one algorithm scores higher than another (Agarwal et al. 2021).

Runs that differ only in their seeds form one group. Groups are named by the settings in which they differ: a sweep
over learner.gamma compares its values. The report says which is best, and gives the command that trains it."""

EXAMPLES = """\
examples
  qmix-jax train -m algorithm=qmix,vdn env.map=3m,2s3z num_seeds=5
  qmix-jax report multirun/*
  qmix-jax report runs/3m-qmix runs/3m-vdn --out plots
  qmix-jax report multirun/* --format pdf,html            # figures for a paper, and one page to send to somebody"""

RUNS = """\
a run's folder, or any folder with runs below it, such as a sweep's; damaged, failed and empty runs are left out with a
warning, as are those whose job has not ended"""

METRIC = """\
what to compare: any eval/NAME of metrics.jsonl, such as return or episode_length; by default win_rate, or return in
environments without it"""

AT = "compare at the first evaluation at or after this environment step, instead of the last"

OUT = """\
the folder to write to, by default report/: report.md (the tables, also printed), report.csv, report.tex, report.json,
marl_eval.json (for marl-eval), and the figures: report, charts (every metric over environment steps), and heatmap
where two settings were swept"""

FORMAT = """\
the format of the figures, by default png; several with commas or by giving the option again. html is one page with all
figures, tables and runs, report.html, which needs no other file"""


def main(arguments: list[str]) -> int:
    """Write a report; returns the exit status."""
    from qmix_jax.analysis.report import FORMATS, write_report

    def formats(text: str) -> list[str]:
        for name in text.split(","):
            if name not in FORMATS:
                raise argparse.ArgumentTypeError(f"'{name}' is no format; choose from {', '.join(FORMATS)}")
        return text.split(",")

    parser = Parser("report", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help=RUNS)
    parser.add_argument("--metric", type=lambda name: name.removeprefix("eval/"), metavar="NAME", help=METRIC)
    parser.add_argument("--at", type=count_from(0), metavar="STEP", help=AT)
    parser.add_argument("--out", type=_folder, default=Path("report"), metavar="DIR", help=OUT)
    parser.add_argument("--format", type=formats, action="extend", metavar="png|pdf|svg|html", help=FORMAT)
    options = parser.parse_intermixed_args(arguments)
    report = write_report(options.runs, options.out, options.metric, options.at, options.format or ["png"])
    print(report.text)
    print(f"Written to {options.out}: {', '.join(report.files)}")
    return 0


def _folder(text: str) -> Path:
    """The type of an argument that is a folder, which need not exist."""
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a file; name a folder")
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} looks like a file; name a folder, such as {path.with_suffix('')}")
    return path
