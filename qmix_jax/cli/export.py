"""`qmix-jax export`: the agents of a finished run as a folder that needs nothing else."""

import os
from pathlib import Path

from qmix_jax.cli.arguments import Parser, add_checkpoint
from qmix_jax.import_path import title_of
from qmix_jax.run import startup

DESCRIPTION = """\
Make a portable folder of a trained team, whose agents act on their own observations: with NumPy alone where the network
is the GRU, with JAX where it is another (docs/deploy.md)."""


def main(arguments: list[str]) -> int:
    """Export as the command line says; returns the exit status."""
    parser = Parser("export", description=DESCRIPTION)
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    add_checkpoint(parser)
    parser.add_argument("--seed", type=int, metavar="I", help="the run's seed number I, counted from 0 (the best one)")
    options = parser.parse_args(arguments)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing to compute, and a GPU may be busy training
    startup.start_jax(["1"])
    from qmix_jax.run.export import export_run

    contract = export_run(options.run, options.out, options.checkpoint, options.seed)
    print(summary(contract, options.out))
    return 0


def summary(contract: dict, out: Path) -> str:
    """The files that were made, and how they are used."""
    provenance, names = contract["provenance"], [agent["name"] for agent in contract["agents"]]
    sizes = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    is_compiled = "compiled_network.py" in sizes
    needed = "Python, JAX and flatbuffers" if is_compiled else "Python and NumPy"
    return "\n".join(
        [
            f"Exported: {title_of(provenance['algorithm']).upper()} on {contract['environment']['name']}, seed "
            f"{provenance['seed']}, agents {', '.join(names)}",
            *(f"  {out / name}  {size / 1024:.0f} KiB" for name, size in sizes.items()),
            f"Next, wherever there are {needed} (docs/deploy.md):",
            *["  from compiled_network import CompiledNetwork"] * is_compiled,
            f"  from deployed_agent import DecentralisedAgent  # {out / 'deployed_agent.py'}",
            f'  agent = DecentralisedAgent("{out}", agent="{names[0]}"{", network=CompiledNetwork" * is_compiled})',
            "  action = agent.act(observation, available)",
        ]
    )
