"""Seconds per decision of an exported agent on one core, as a Markdown table.

    python experiments/latency.py TEAM [TEAM ...]

A TEAM is a folder that `qmix-jax export` wrote. It runs the `deployed_agent.py` in that folder and needs NumPy alone;
JAX too for a team with a `compiled_network.py`.
"""

import os

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # before NumPy is imported

import runpy
import sys
import time
from pathlib import Path

import numpy as np

DECISIONS, WARM_UP = 20_000, 500


def decision_seconds(agent) -> np.ndarray:
    """The time of each decision, on random observations with everything legal."""
    observations = np.random.default_rng(0).standard_normal((DECISIONS + WARM_UP, agent.obs_size), np.float32)
    available, seconds = np.ones(agent.num_actions, bool), []
    for observation in observations:
        begun = time.perf_counter()
        agent.act(observation, available)
        seconds.append(time.perf_counter() - begun)
    return np.array(seconds[WARM_UP:])


def main(folders: list[str]) -> None:
    """Measure the first agent of each team."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print("| team | observation | hidden | actions | min (us) | median (us) |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for folder in folders:
        deployed_agent = runpy.run_path(str(Path(folder) / "deployed_agent.py"))
        contract = deployed_agent["read_contract"](Path(folder))
        program = Path(folder) / "compiled_network.py"
        network = runpy.run_path(str(program))["CompiledNetwork"] if program.exists() else None
        agent = deployed_agent["DecentralisedAgent"](
            folder, contract["agents"][0]["name"], shield=lambda o, s, legal: legal, network=network
        )
        seconds = decision_seconds(agent)
        sizes = f"{agent.obs_size} | {contract['network'].get('hidden_size', '-')} | {agent.num_actions}"
        times = f"{1e6 * seconds.min():.0f} | {1e6 * np.median(seconds):.0f}"
        print(f"| {contract['environment']['name']} | {sizes} | {times} |")


if __name__ == "__main__":
    main(sys.argv[1:])
