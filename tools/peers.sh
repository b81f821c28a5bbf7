#!/usr/bin/env bash
# Build .venv/peers-NAME from requirements/peers-NAME.txt for each NAME given (default: all); quick when they are whole.
# usage: tools/peers.sh [openvino] [ep] [sdcpp]
set -euo pipefail
cd "$(dirname "$0")/.."

names=("$@")
[ ${#names[@]} -gt 0 ] || names=(openvino ep sdcpp)
for name in "${names[@]}"; do
    list=requirements/peers-$name.txt
    venv=.venv/peers-$name
    key=$( { pwd; python3 --version; cat "$list"; } | sha256sum | cut -d' ' -f1 )
    [ "$(cat "$venv/.stamp" 2>/dev/null)" = "$key" ] && continue
    echo "Setting up $venv ..."
    rm -rf "$venv"
    python3 -m venv "$venv"
    # A peer that does not build here is left out of the comparison, which says so.
    if CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) "$venv/bin/python" -m pip --disable-pip-version-check --quiet install -r "$list"
    then echo "$key" > "$venv/.stamp"
    else echo "$venv could not be built: bench runs without it" >&2; rm -rf "$venv"
    fi
done
