"""A Markdown table of run folders: the last evaluation of each, with a 95 % bootstrap interval over seeds.

That of win rates is no narrower than Wilson's over all episodes.

python experiments/table.py runs/*/* multirun/*/*          # the last line of each
python experiments/table.py --at 1000000 runs/2s3z-qmix/*  # the first line at or behind that step
"""

import argparse
import json
from pathlib import Path

import numpy as np

from qmix_jax.analysis.curve import interval
from qmix_jax.records import read_metrics


def row_of(folder: Path, at: int | None) -> dict:
    rows = read_metrics(folder / "metrics.jsonl")
    return next((row for row in rows if at is not None and row["env_steps"] >= at), rows[-1])


def score(values: list[float], episodes: list[int] | None = None, percent: bool = False) -> str:
    counts = None if episodes is None else np.array([sum(episodes)])
    low, high = (float(edge[0]) for edge in interval(np.array(values)[:, None], counts))
    show = (lambda x: f"{100 * x:.1f}") if percent else (lambda x: f"{x:.2f}")
    return f"{show(np.mean(values))} [{show(low)}, {show(high)}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--at", type=int, help="environment step to read instead of the last")
    arguments = parser.parse_args()
    print("| run | overrides | steps | seeds | win rate % | return | wall s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for folder in arguments.folders:
        if not (folder / "metrics.jsonl").exists():
            continue
        row, about = row_of(folder, arguments.at), json.loads((folder / "run.json").read_text())
        overrides = " ".join(about["command"][2:])
        wins = score(row["eval/win_rate"], row.get("eval/episodes"), percent=True) if "eval/win_rate" in row else ""
        seeds = len(row["eval/return"])
        cells = [about["title"], f"`{overrides}`", f"{row['env_steps']:,}", seeds, wins]
        print("|", *[f"{cell} |" for cell in [*cells, score(row["eval/return"]), f"{row['wall_seconds']:.0f}"]])


if __name__ == "__main__":
    main()
