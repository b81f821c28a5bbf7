#!/usr/bin/env bash
# Build .venv/NAME from requirements/NAME.lock, with edgegen itself installed in place; quick when it is whole.
# usage: tools/venv.sh device|dev
set -euo pipefail
cd "$(dirname "$0")/.."

name=$1
lock=requirements/$name.lock
venv=.venv/$name
host_python=${PYTHON:-python3}

fail() { echo "$*" >&2; exit 1; }

"$host_python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    || fail "edgegen needs Python 3.11 or newer; $host_python is $("$host_python" --version 2>&1)." \
            "Point PYTHON at a newer one: make PYTHON=python3.12 ..."

# Two makes in one checkout must not build over each other.
mkdir -p .venv
exec 9> ".venv/$name.lock"
flock 9

# The stamp is written last, so an aborted build has none. It names all that the folder was built from,
# and where: a virtual environment does not survive being moved.
key=$( { "$host_python" --version; pwd; cat "$lock" pyproject.toml tools/venv.sh edgegen/engine/operators/native/*; } | sha256sum | cut -d' ' -f1 )
if [ "$(cat "$venv/.stamp" 2>/dev/null)" = "$key" ] && "$venv/bin/python" -c 'import edgegen, pip' 2>/dev/null; then
    exit 0
fi

echo "Setting up $venv (once; again when $lock changes) ..."
rm -rf "$venv"
"$host_python" -m venv "$venv" \
    || fail "Cannot make a virtual environment. On Debian and Raspberry Pi OS: sudo apt-get install python3-venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
"${pip[@]}" install -r "$lock"
"${pip[@]}" install --no-deps --no-build-isolation -e .
echo "$key" > "$venv/.stamp"
