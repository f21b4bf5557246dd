"""`qmix-jax export`: the agents of a finished run as a folder that needs nothing else."""

import argparse
import os
from pathlib import Path
from typing import NoReturn

from qmix_jax.cli.startup import start_jax
from qmix_jax.settings import ConfigError


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as every other mistake is said."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="qmix-jax export",
        description="Make a portable folder of a trained team, whose agents act on their own observations with NumPy "
        "alone (docs/deploy.md).",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    parser.add_argument("--checkpoint", default="last", metavar="best|last|STEP", help="which parameters (last)")
    parser.add_argument("--seed", type=int, metavar="I", help="the run's seed number I, counted from 0 (the best one)")
    return parser


def main(arguments: list[str]) -> int:
    """Export as the command line says; returns the exit status."""
    if not {"-h", "--help"}.isdisjoint(arguments):
        print(_parser().format_help().rstrip())
        return 0
    options = _parser().parse_args(arguments)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing to compute, and a GPU may be busy training
    start_jax(["1"])
    from qmix_jax.run.export import export_run

    contract = export_run(options.run, options.out, options.checkpoint, options.seed)
    print(summary(contract, options.out))
    return 0


def summary(contract: dict, out: Path) -> str:
    """What was made, and how it is used."""
    provenance, names = contract["provenance"], [agent["name"] for agent in contract["agents"]]
    sizes = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    return "\n".join(
        [
            f"Exported: {provenance['algorithm'].upper()} on {contract['environment']['name']}, seed "
            f"{provenance['seed']}, agents {', '.join(names)}",
            *(f"  {out / name}  {size / 1024:.0f} KiB" for name, size in sizes.items()),
            "Next, wherever there are Python and NumPy (docs/deploy.md):",
            f"  from deployed_agent import DecentralisedAgent  # {out / 'deployed_agent.py'}",
            f'  agent = DecentralisedAgent("{out}", agent="{names[0]}")',
            "  action = agent.act(observation, available)",
        ]
    )
