"""Measure on a GPU what is to be known, in steps that can each be run alone and go on where they were cut off.

    experiments/gpu/measure.sh                          # every step, then the tables: 30 minutes
    experiments/gpu/measure.sh --step 3                 # one of them
    experiments/gpu/measure.sh --step report            # tables and pictures of what there is
    experiments/gpu/measure.sh --quick --out /tmp/dry   # everything tiny, on the CPU

Every measurement is a process of its own with a time limit, and its file OUT/step-N/NAME.json is written as soon as it
ends, with the card, the driver, the versions and the commit. One that fails is noted there with the last line of its
error, and the next one follows. What has a file is not measured again: delete the file to have it measured once more.
What no longer fits into its step's seconds, or lacks something, is noted as skipped and tried by the next call.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import report
from steps import SECONDS, STEPS, TITLES, Measurement, Plan

from qmix_jax.files import read_json, write_json

HERE = Path(__file__).resolve().parent
GRACE = 30.0
"""Seconds in which a process that was told to stop may save what it has."""
REPORT = 6
PLACES = "folder", "checkout"
"""Arguments of jobs that say nothing on another machine."""
SETTLED = ("done", "failed")
"""What is not measured again; a run that was cut off goes on."""


def run_job(job: str, arguments: dict, folder: Path, seconds: float, quick: bool) -> dict:
    """A job in a process of its own: its status, its seconds, and its result or the last line of its error."""
    folder.mkdir(parents=True, exist_ok=True)
    result, output = folder / "result.json", folder / "output.txt"
    order = json.dumps({"job": job, "arguments": arguments, "result": str(result)})
    command = [sys.executable, str(HERE / "jobs.py"), order, *(["--quick"] if quick else [])]
    environment = {**os.environ, **({"JAX_PLATFORMS": "cpu"} if quick else {})}
    if job == "tests":  # they compare with float64 or with other orders of the same sums
        environment["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
    begun = time.perf_counter()
    with output.open("w") as file:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            in_time = wait(process, seconds)
        finally:
            end(process)
    took = {"seconds": round(time.perf_counter() - begun, 2)}
    found = read_json(result)
    result.unlink(missing_ok=True)
    if process.returncode == 0 and found is not None:
        return {"status": "done" if in_time else "cut off", **took, "result": found}
    return {"status": "failed", **took, "error": last_line(output, process.returncode, in_time, seconds)}


def wait(process: subprocess.Popen, seconds: float) -> bool:
    """Wait for a process; whether it ended in time. One that does not is told to stop, and may save what it has."""
    try:
        process.wait(seconds)
        return True
    except subprocess.TimeoutExpired:
        process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    return False


def end(process: subprocess.Popen) -> None:
    """End a process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_line(output: Path, status: int, in_time: bool, seconds: float) -> str:
    """Why a job failed."""
    if not in_time:
        return f"not done within {seconds:.0f} s"
    lines = [line.strip() for line in output.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else f"ended with status {status} and said nothing"


def write(path: Path, content: dict) -> None:
    """One measurement's file."""
    write_json(path, content, indent=2)


def measure(measurement: Measurement, path: Path, about: dict, quick: bool) -> str:
    """Measure and write the file; what is to be said of it."""
    outcome = run_job(measurement.job, measurement.arguments, path.with_suffix(""), measurement.seconds, quick)
    arguments = {name: value for name, value in measurement.arguments.items() if name not in PLACES}
    write(path, {**about, "name": measurement.name, "job": measurement.job, **arguments, **outcome})
    return f"{outcome['status']} in {outcome['seconds']:.0f} s{': ' + outcome['error'] if 'error' in outcome else ''}"


def run_step(step: int, plan: Plan, about: dict, seconds: float) -> None:
    """Everything in a step that has no file yet and fits into its seconds."""
    end_at = time.perf_counter() + seconds
    say(f"step {step}: {TITLES[step]}")
    for measurement in plan.measurements(step):
        path = plan.out / f"step-{step}" / f"{measurement.name}.json"
        before = read_json(path) or {}
        if before.get("status") in SETTLED:
            say(f"  {measurement.name}: {before['status']} before")
            continue
        left = end_at - time.perf_counter()
        reason = measurement.lacks
        if not reason and left < measurement.seconds:
            reason = f"may take {measurement.seconds:.0f} s, and {max(left, 0):.0f} s of the step are left"
        if reason:
            if "result" not in before:  # what a run that was cut off has reached stays
                write(path, {**about, "name": measurement.name, "status": "skipped", "reason": reason})
            say(f"  {measurement.name}: skipped, {reason}")
        else:
            say(f"  {measurement.name}: {measure(measurement, path, about, plan.quick)}")


def describe(plan: Plan, commit: str | None) -> dict:
    """Card, driver, versions and commit, which every file names."""
    found = run_job("machine", {}, plan.out / "machine", 120, plan.quick)
    if found["status"] != "done":
        raise SystemExit(f"error: JAX does not start here: {found['error']}")
    if commit:
        found["result"]["git"] = {"commit": commit, "dirty": None}
    return {"machine": found["result"]}


def say(line: str) -> None:
    """Tell the terminal at once."""
    print(line, flush=True)


def parse() -> argparse.Namespace:
    """Read the command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("measure.sh", description=__doc__, formatter_class=formatter, allow_abbrev=False)
    add = parser.add_argument
    steps = "; ".join(f"{number} {title}" for number, title in TITLES.items())
    add("jaxmarl", nargs="?", type=Path, metavar="JAXMARL_CHECKOUT", help="for step 4; without it that is skipped")
    add("--step", choices=[*map(str, STEPS), str(REPORT), "report"], help=f"only this one: {steps}; {REPORT} report")
    add("--seconds", type=float, help="of each step (default: " + ", ".join(map(str, SECONDS.values())) + ")")
    add("--out", type=Path, default=HERE / "results", metavar="FOLDER", help="default: results beside this script")
    add("--quick", action="store_true", help="a dry run: everything tiny, on the CPU")
    add("--commit", help="the commit to name, where the source is no checkout")
    arguments = parser.parse_args()
    if arguments.jaxmarl and not (arguments.jaxmarl / "baselines/QLearning/qmix_rnn.py").exists():
        parser.error(f"{arguments.jaxmarl} is no checkout of JaxMARL; git clone https://github.com/FLAIROx/JaxMARL")
    return arguments


def main() -> None:
    """Measure, then report."""
    arguments: Any = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the measuring process too
    checkout = arguments.jaxmarl and arguments.jaxmarl.resolve()
    plan = Plan(arguments.out.resolve(), arguments.quick, checkout)
    try:
        plan.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"error: cannot make {plan.out}: {error.strerror}; say --out FOLDER") from None
    only_report = arguments.step in ("report", str(REPORT))
    if not only_report:
        about = describe(plan, arguments.commit)
        for step in [int(arguments.step)] if arguments.step else STEPS:
            run_step(step, plan, about, arguments.seconds or SECONDS[step])
    say(f"report: {report.write(plan.out)}")


if __name__ == "__main__":
    main()
