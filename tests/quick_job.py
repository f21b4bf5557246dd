"""A job that trains nothing, for tests of sweeps: it writes rows as a run does, resumes, and obeys signals.

Its settings: `seed=3` fails with an error; `total_env_steps` rows of one environment step each, of 0.05 s;
`num_seeds=2` prints a line first. The score in row i is learner.gamma + i.
"""

import json
import signal
import sys
import time
from pathlib import Path

from qmix_jax.records import read_metrics
from qmix_jax.run import exits
from qmix_jax.run.lock import locked
from qmix_jax.sweep import worker

PROGRAM = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from quick_job import main; sys.exit(main())"
)


def run_here(jobs, resumes):
    """Write the rows that are missing; returns the exit status of the one job."""
    (job,) = jobs
    settings, path = job.settings, job.folder / "metrics.jsonl"
    with locked(job.folder), exits.stop_signals() as received:
        (job.folder / "config.yaml").write_text(json.dumps(settings))
        (job.folder / "starts.txt").open("a").write(f"{time.time()} {sorted(worker.os.sched_getaffinity(0))}\n")
        assert resumes or not path.exists()
        if settings["num_seeds"] == 2:
            print("two seeds")
        if settings["seed"] == 3:
            raise LookupError("a defect")
        done = len(read_metrics(path)) if path.exists() else 0
        for i in range(done, settings["total_env_steps"]):
            if received:
                return [exits.STOP_SIGNALS[received[0]]]
            time.sleep(0.05)
            row = {"env_steps": i + 1, "eval/return": [settings["learner"]["gamma"] + i], "wall_seconds": 0.05 * i}
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
    return [exits.DONE]


def main():
    """As `worker.main`."""
    worker.run_here = run_here
    return worker.main()


if __name__ == "__main__":  # the command line, whose jobs are these
    from qmix_jax.cli.main import main as command_line

    worker.PROGRAM = PROGRAM
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    sys.exit(command_line(sys.argv[1:]))
