"""`qmix-jax status`: how far the jobs of a sweep, or a single run, are."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from qmix_jax.cli.arguments import Parser
from qmix_jax.files import to_json

DESCRIPTION = """\
Say of each job of a sweep, or of a single run, whether it waits, runs, is done, failed or was stopped, how far it is,
and its score (checkpoint.metric, by evaluation.score). Reads files alone, so it works from any terminal or machine that
sees the folder, while the jobs run and afterwards."""

EXAMPLES = """\
examples
  qmix-jax status multirun/gammas
  qmix-jax status multirun/gammas --watch
  qmix-jax status runs/2s3z-qmix/2026-01-31_12-00-00-123456_seed0 --json"""


def main(arguments: list[str]) -> int:
    """Print the state of a sweep or a run; returns 1 where a job failed, else 0."""
    parser = Parser("status", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder of a sweep, or of a run")
    parser.add_argument("--watch", action="store_true", help="repeat it every two seconds until no job runs or waits")
    parser.add_argument("--json", action="store_true", help="print it as JSON; with --watch the last of it")
    options = parser.parse_args(arguments)
    from qmix_jax.sweep.ledger import Watch, read_sweep

    watch = Watch(read_sweep(options.folder))
    states = _watch(watch.states, options.json) if options.watch else watch.states()
    if options.json:
        print(to_json([dataclasses.asdict(job) for job in states], indent=1))
    elif not options.watch:
        _print(states)
    return int(any(job.state == "failed" for job in states))


def _print(states: Sequence) -> None:
    from qmix_jax.sweep.board import headline, show, table

    show([headline(states, None), table(states)])


def _watch(look: Callable[[], list], on_stderr: bool) -> list:
    from rich.console import Group
    from rich.live import Live

    from qmix_jax.sweep.board import headline, plain_console, table

    with Live(console=plain_console(on_stderr), auto_refresh=False) as live:
        while True:
            states = look()
            live.update(Group(headline(states, None), table(states)), refresh=True)
            if not any(job.state in ("running", "waiting") for job in states):
                return states
            time.sleep(2)
