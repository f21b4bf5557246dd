"""Command lines of `qmix-jax`, one after the other in one process that starts once."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = """\
import json, sys
from qmix_jax.cli.main import main
for words in json.loads(sys.argv[1]):
    assert main(words) == 0, words
"""


def carry_out(folder, lines, *packages, **environment):
    """What lines such as `qmix-jax train` print in a folder; the process finds modules in `packages` too."""
    words = [shlex.split(line)[1:] for line in lines]
    path = os.pathsep.join(map(str, [ROOT, *packages]))
    done = subprocess.run(
        [sys.executable, "-P", "-c", COMMANDS, json.dumps(words)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=600,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stdout + done.stderr
    return done.stdout
