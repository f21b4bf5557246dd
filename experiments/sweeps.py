"""How long a sweep of equal jobs takes by each launcher: `python experiments/sweeps.py [SETTING=VALUE ...]`.

Eight learning rates of one seed each: one process after the other on all cores, processes side by side, and one
program. Every way begins without compiled programs; they take turns, and the table has the fastest turn of each.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RATES = ("3e-4", "4e-4", "5e-4", "6e-4", "7e-4", "8e-4", "9e-4", "1e-3")
WAYS = {
    "one after the other": ["hydra.launcher.jobs=1"],
    "processes": [],
    "together": ["hydra/launcher=together"],
}
QUIET = ["logging.film=false", "logging.display=none"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="SETTING=VALUE", help="of the jobs, such as env=mpe")
    parser.add_argument("--turns", type=int, default=1, help="how often each way is timed")
    parser.add_argument("--out", type=Path, help="a JSON file for the seconds")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(options.turns):
        for name, words in WAYS.items():
            seconds[name].append(time_sweep([*options.settings, *words]))
            print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
    slowest = min(seconds["one after the other"])
    print("\n| way | seconds | times as soon |\n| --- | --- | --- |")
    for name, each in seconds.items():
        print(f"| {name} | {min(each):.0f} | {slowest / min(each):.2f} |")
    if options.out:
        options.out.write_text(json.dumps({"settings": options.settings, "seconds": seconds}, indent=1) + "\n")


def time_sweep(words: list[str]) -> float:
    """Seconds of a sweep over `RATES` with these overrides, from its start to its end."""
    with tempfile.TemporaryDirectory() as folder:
        sweep = [f"learner.learning_rate={','.join(RATES)}", f"hydra.sweep.dir={folder}/sweep", *QUIET]
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
        begin = time.perf_counter()
        command = [sys.executable, "-m", "qmix_jax", "train", "-m", *words, *sweep]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begin


if __name__ == "__main__":
    main()
