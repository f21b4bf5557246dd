"""The flags of `qmix-jax train`, which are Hydra's."""

import argparse
from pathlib import Path
from typing import NamedTuple

from qmix_jax.cli.arguments import Parser
from qmix_jax.settings import require

MODES = ("run", "multirun", "cfg", "info", "shell_completion", "hydra_help")
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


class Flags(NamedTuple):
    """A command line in Hydra's grammar."""

    options: argparse.Namespace
    argv: list[str]
    """The same, in an order that Hydra's own parser understands."""

    @property
    def composes(self) -> bool:
        """Whether settings matter at all."""
        return not (self.options.hydra_help or self.options.shell_completion)

    @property
    def runs(self) -> bool:
        """Whether jobs run, rather than something being shown."""
        return self.composes and not (self.options.cfg or self.options.info)


def parse_flags(arguments: list[str]) -> Flags:
    """Read Hydra's flags; overrides may stand anywhere among them."""
    parser = Parser("train", takes_settings=True, add_help=False)
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--run", "-r", action="store_true")
    parser.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--package", "-p")
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--config-name", "-cn")
    parser.add_argument("--info", "-i", const="all", nargs="?", choices=INFO)
    parser.add_argument("--hydra-help", action="store_true")
    parser.add_argument("--shell-completion", "-sc", action="store_true")
    options = parser.parse_intermixed_args(arguments)
    modes = ["--" + mode.replace("_", "-") for mode in MODES if getattr(options, mode)]
    require(len(modes) <= 1, f"only one of {' and '.join(modes)} can be given")
    require(options.cfg or not options.resolve, "--resolve goes with --cfg")
    folder = options.config_dir
    require(folder is None or Path(folder).is_dir(), f"--config-dir {folder}: there is no such folder")
    flags = [argument for argument in arguments if argument not in options.overrides]
    return Flags(options, [*options.overrides, *flags])
