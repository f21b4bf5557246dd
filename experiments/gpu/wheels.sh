#!/usr/bin/env bash
# Collect what a GPU machine without a network lacks, as pure wheels: wheels.sh FOLDER [PACKAGE ...]
#
# The machine has JAX with CUDA, flax, optax, chex, orbax-checkpoint, matplotlib, pillow, psutil, rich, safetensors and
# jaxtyping (these are or need compiled code, so they cannot come this way). Each PACKAGE is collected too. measure.sh
# installs the folder (pip install --no-index --no-deps --target).
set -euo pipefail
limit=50000000 # bytes together
packages=(jaxmarl gymnax gymnasium farama-notifications cloudpickle hydra-core omegaconf antlr4-python3-runtime
    flashbax six beartype)

if [ $# -lt 1 ] || [ "$1" = -h ] || [ "$1" = --help ]; then
    sed -n '2,6s/^# \{0,1\}//p' "$0"
    exit "$([ $# -lt 1 ] && echo 2 || echo 0)"
fi
folder=$1
shift
here=$(cd "$(dirname "$0")" && pwd)
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
# pip wheel downloads wheels, and builds one of what is published as source alone; versions are those of the lock file
"${PYTHON:-python3}" -m pip wheel --quiet --disable-pip-version-check --no-deps \
    --constraint "$here/../../requirements.lock" --wheel-dir "$fresh" "${packages[@]}" "$@"

impure=$(find "$fresh" -name '*.whl' ! -name '*-none-any.whl' -exec basename {} \;)
if [ -n "$impure" ]; then
    echo "error: not pure, only for one Python or processor: $(echo $impure); leave them out" >&2
    exit 1
fi
size=$(cat "$fresh"/*.whl | wc -c)
if [ "$size" -gt "$limit" ]; then
    echo "error: $size bytes together, more than $limit; collect fewer packages" >&2
    exit 1
fi
mkdir -p "$folder"
rm -rf "$folder"/*.whl "$folder/installed"
mv "$fresh"/*.whl "$folder"
(cd "$folder" && ls -1 *.whl)
echo "$size bytes in $folder"
