#!/usr/bin/env bash
# Everything that is to be measured on a GPU; measure.sh --help names the options. Wheels in experiments/gpu/wheels, or in
# the folder that the variable WHEELS names, are installed beside them first: no network and no environment is needed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
wheels=${WHEELS:-$here/wheels}
installed=$wheels/installed
if compgen -G "$wheels/*.whl" >/dev/null; then
    if [ ! -e "$installed/complete" ]; then
        rm -rf "$installed"
        "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --target "$installed" \
            "$wheels"/*.whl
        touch "$installed/complete"
    fi
    PYTHONPATH=$installed${PYTHONPATH:+:$PYTHONPATH}
fi
export PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" "$here/measure.py" "$@"
