#!/usr/bin/env bash
# Make sure that the MQTT broker `mosquitto` is installed; asks the distribution for it when it is missing.
set -euo pipefail
PATH=$PATH:/usr/sbin:/usr/local/sbin

command -v mosquitto > /dev/null && exit 0

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
echo "mosquitto is missing: asking the distribution for it (apt-get install mosquitto) ..."
if command -v apt-get > /dev/null && { [ "$(id -u)" = 0 ] || command -v sudo > /dev/null; }; then
    # shellcheck disable=SC2015
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q mosquitto \
        || { "${as_root[@]}" apt-get update -q \
             && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q mosquitto; } \
        || true
fi
command -v mosquitto > /dev/null && exit 0
echo "mosquitto could not be installed. Install it yourself (Debian: apt-get install mosquitto), then run make again." >&2
exit 1
