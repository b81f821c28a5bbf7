"""What the front costs while nothing happens: resident memory and CPU, over real mosquitto and mock pins.

python bench/idle_front.py [--seconds 60] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SETTLE_S = 5.0
CONFIG = """
[node]
data_dir = "{folder}/data"
run_dir = "{folder}/run"
[mqtt]
enabled = true
host = "127.0.0.1"
port = {port}
[[buttons]]
pin = 17
led = 27
prompts = ["a fox"]
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to watch (default 60)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eg") as folder, broker(Path(folder)) as port:
        config = Path(folder) / "config.toml"
        config.write_text(CONFIG.format(folder=folder, port=port), "utf-8")
        with front(config) as pid:
            time.sleep(SETTLE_S)
            before, began = cpu_seconds(pid), time.monotonic()
            time.sleep(args.seconds)
            share = 100 * (cpu_seconds(pid) - before) / (time.monotonic() - began)
            found = {"resident_mb": round(resident_mb(pid), 1), "cpu_percent": round(share, 3)}
    if args.json:
        print(json.dumps(found))
    else:
        print(f"idle front: {found['resident_mb']} MB resident, {found['cpu_percent']} % of one core")


@contextlib.contextmanager
def broker(folder: Path, *settings: str) -> Iterator[int]:
    """mosquitto on a free loopback port, with more lines of its configuration."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "mosquitto.conf"
    lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", *settings]
    config.write_text("\n".join(lines) + "\n", "utf-8")
    path = os.environ["PATH"] + ":/usr/sbin"
    process = subprocess.Popen(
        ["mosquitto", "-c", str(config)], env={**os.environ, "PATH": path}, stderr=subprocess.DEVNULL
    )
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def front(config: Path) -> Iterator[int]:
    """The front alone; its process id once it runs."""
    command = [sys.executable, "-m", "edgegen", "--config", str(config), "run", "--front-only"]
    env = {**os.environ, "GPIOZERO_PIN_FACTORY": "mock"}
    process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """VmRSS."""
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


if __name__ == "__main__":
    main()
