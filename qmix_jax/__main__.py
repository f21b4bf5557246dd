"""`python -m qmix_jax COMMAND` is `qmix-jax COMMAND`."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the current folder, which may be an untrusted run (docs/trust.md)
    from qmix_jax.cli.main import main

    sys.exit(main())
