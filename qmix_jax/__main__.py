"""`python -m qmix_jax COMMAND` is `qmix-jax COMMAND`."""

import sys

from qmix_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
