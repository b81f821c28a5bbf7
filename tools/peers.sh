#!/usr/bin/env bash
# Build .venv/peers-NAME from requirements/peers-NAME.txt for each NAME given (default: all); quick when they are whole.
# usage: tools/peers.sh [openvino] [ep] [sdcpp] [comfyui]
set -euo pipefail
cd "$(dirname "$0")/.."

names=("$@")
[ ${#names[@]} -gt 0 ] || names=(openvino ep sdcpp comfyui)
for name in "${names[@]}"; do
    list=requirements/peers-$name.txt
    bare=requirements/peers-$name.nodeps.txt  # packages whose own wishes are not followed
    venv=.venv/peers-$name
    key=$( { pwd; python3 --version; cat "$list"; cat "$bare" 2>/dev/null || true; } | sha256sum | cut -d' ' -f1 )
    [ "$(cat "$venv/.stamp" 2>/dev/null)" = "$key" ] && continue
    echo "Setting up $venv ..."
    rm -rf "$venv"
    python3 -m venv "$venv"
    # A peer that does not build here is left out of the comparison, which says so.
    pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet install)
    if CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) "${pip[@]}" -r "$list" \
        && { [ ! -e "$bare" ] || "${pip[@]}" --no-deps -r "$bare"; }
    then echo "$key" > "$venv/.stamp"
    else echo "$venv could not be built: bench runs without it" >&2; rm -rf "$venv"
    fi
done
