"""Compile training for a TPU, and say how much of its memory the program needs. No TPU is needed, nothing is run.

    pip install 'jax[tpu]'                                               # the compiler; 130 MB
    python experiments/tpu_compile.py                                    # QMIX on SMAX 2s3z, for one v5e
    python experiments/tpu_compile.py --devices 4 env=mpe num_seeds=2    # two for each seed
    python experiments/tpu_compile.py --topology v6e:2x2

A program that does not fit is refused by XLA, with what takes most.
"""

import argparse
import os
import time
from typing import Any

import jax
from jax.experimental import topologies

from qmix_jax.build import from_mapping, make_team
from qmix_jax.cli.compose import compose
from qmix_jax.run.program import Program
from qmix_jax.settings import ConfigError

NO_MACHINE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
"""Environment variables by which the compiler asks no machine of Google's cloud what it is."""


def tpus(topology: str, count: int) -> list[Any]:
    """The first devices of a topology such as v5e:2x2."""
    os.environ.update(NO_MACHINE)
    try:
        return list(topologies.get_topology_desc(topology, "tpu").devices)[:count]
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise SystemExit(f"error: {error} (is the compiler there? pip install 'jax[tpu]')") from None


def describe(overrides: list[str], devices: list[Any]) -> str:
    """Compile a chunk of training for these devices; its memory and collectives in one line."""
    config = from_mapping(compose(overrides))
    program = Program.make(config, make_team(config), devices)
    begin = time.perf_counter()
    compiled = program.compile_chunk()
    seconds = time.perf_counter() - begin
    memory, mesh = compiled.memory_analysis(), program.mesh.shape
    return (
        f"{devices[0].device_kind} x {mesh['seed']} for seeds x {mesh['data']} for data: compiled in {seconds:.0f} s; "
        f"a device keeps {memory.argument_size_in_bytes / 2**20:.0f} MiB between chunks and needs "
        f"{memory.temp_size_in_bytes / 2**20:.0f} MiB more; {compiled.as_text().count(' all-reduce(')} all-reduces"
    )


def main() -> None:
    """Compile and describe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x2", help="the TPUs (default: v5e:2x2)")
    parser.add_argument("--devices", type=int, default=1, help="how many of them (default: 1)")
    arguments, overrides = parser.parse_known_args()
    jax.config.update("jax_platforms", "cpu")  # what is not compiled for TPUs is done here
    try:
        print(describe(overrides, tpus(arguments.topology, arguments.devices)))
    except ConfigError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
