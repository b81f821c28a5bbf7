"""How fast the daemon answers over real mosquitto: its start, `queued`, the first step, the picture.

python bench/latency.py [--pack tiny --pack-dir tests/packs] [--rate 200] [--seconds 5] [--jobs 20] [--json]
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
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import IO, Any

import paho.mqtt.client as paho
from idle_front import broker

PATIENCE_S = 120.0
BASE = "edgegen/bench"
CONFIG = """
[node]
name = "bench"
data_dir = "{folder}/data"
run_dir = "{folder}/run"
[engine]
pack = "{pack}"
pack_dirs = ["{pack_dir}"]
provider = "cpu"
[queue]
max_jobs = 100000
[mqtt]
enabled = true
host = "127.0.0.1"
port = {port}
home_assistant = false
"""


class Listener:
    """When each message of the device came, by topic and state."""

    def __init__(self, port: int):
        self.at: dict[tuple[str, str], float] = {}
        self.sent: dict[str, float] = {}
        self._changed = threading.Condition()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_connect = lambda *_: self._client.subscribe(f"{BASE}/#", 1)
        self._client.on_message = self._note
        self._client.on_socket_open = lambda _c, _d, s: s.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def _note(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        now, topic = time.monotonic(), message.topic
        if topic.endswith("/status"):
            status: dict[str, Any] = json.loads(message.payload)
            key = (status["id"], f"{status['state']}{status.get('step', '')}")
        elif topic.endswith("/last/image"):
            key = ("image", str(sum(name == "image" for name, _ in self.at)))
        else:
            key = (topic, message.payload.decode("utf-8", "replace"))
        with self._changed:
            self.at.setdefault(key, now)
            self._changed.notify_all()

    def publish(self, job_id: str, **fields: object) -> None:
        self.sent[job_id] = time.monotonic()
        payload = json.dumps({"id": job_id, "prompt": "a red apple", **fields})
        self._client.publish(f"{BASE}/generate", payload, qos=1)

    def wait(self, *key: str) -> float:
        """When it came; waits for it."""
        with self._changed:
            if not self._changed.wait_for(lambda: key in self.at, PATIENCE_S):
                sys.exit(f"nothing came within {PATIENCE_S:g} s: {key}")
            return self.at[key]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pack", default="pocket")
    parser.add_argument("--pack-dir", type=Path, default=Path("tests/packs"))
    parser.add_argument("--rate", type=float, default=200.0, help="messages a second (default 200)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to publish (default 5)")
    parser.add_argument("--jobs", type=int, default=20, help="jobs one after the other (default 20)")
    parser.add_argument("--long-jobs", type=int, default=5, help="jobs of a second and more (default 5)")
    parser.add_argument("--long-steps", type=int, default=100, help="steps of those (default 100)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eg") as folder, broker(Path(folder)) as port:
        time.sleep(1)  # mosquitto listens
        config = Path(folder) / "config.toml"
        pack_dir = args.pack_dir.resolve()
        config.write_text(CONFIG.format(folder=folder, port=port, pack=args.pack, pack_dir=pack_dir))
        found = measure(config, Listener(port), args)
    for name, value in found.items():
        print(json.dumps(found) if args.json else f"{name}: {value}")
        if args.json:
            break


def measure(config: Path, listener: Listener, args: argparse.Namespace) -> dict[str, float]:
    """Milliseconds, by what they are of."""
    found: dict[str, float] = {}
    began = time.monotonic()
    with front(config, "--front-only"):
        found["start to online, ms"] = ms(listener.wait(f"{BASE}/availability", "online") - began)
        found |= offered(listener, args.rate, args.seconds)
    listener.at.clear()
    for path in (config.parent / "data").glob("edgegen.db*"):  # those jobs are not what is measured next
        path.unlink()
    with front(config, "--front-only"), timed_engine(config) as pictures:
        listener.wait(f"{BASE}/availability", "online")
        found |= one_by_one(listener, args.jobs, pictures)
        found |= long_ones(listener, args.long_jobs, args.long_steps, pictures)
    return found


def offered(listener: Listener, rate: float, seconds: float) -> dict[str, float]:
    """Publish to `queued` while messages come in at a rate."""
    names = [f"q{number}" for number in range(int(rate * seconds))]
    began = time.monotonic()
    for number, name in enumerate(names):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        listener.publish(name)
    waits = [listener.wait(name, "queued") - listener.sent[name] for name in names]
    return {
        "publish to queued p50, ms": ms(median(waits)),
        "publish to queued p99, ms": ms(quantiles(waits, n=100)[98]),
    }


def one_by_one(listener: Listener, jobs: int, pictures: IO[str]) -> dict[str, float]:
    """An idle device gets one job after the other; the first one loads the graphs and does not count."""
    first, last = [], []
    for number in range(jobs + 1):
        listener.publish(f"j{number}", steps=2)
        done = listener.wait(f"j{number}", "done")
        image = listener.wait("image", str(number))
        drawn = json.loads(pictures.readline())
        if number:
            first.append(listener.at.get((f"j{number}", "running1"), done) - listener.sent[f"j{number}"])
            last.append(image - drawn["decoded"])
    return {
        "publish to first step done p50, ms": ms(median(first)),
        "picture decoded to published p50, ms": ms(median(last)),
    }


def long_ones(listener: Listener, jobs: int, steps: int, pictures: IO[str]) -> dict[str, float]:
    """What the daemon adds to the time that ONNX Runtime takes, in per cent of it."""
    shares, besides, lengths = [], [], []
    for number in range(jobs):
        listener.publish(f"l{number}", steps=steps)
        listener.wait(f"l{number}", "done")
        drawn = json.loads(pictures.readline())
        shares.append(100 * drawn["dealings_s"] / drawn["graphs_s"])
        besides.append(100 * (drawn["drawn_s"] / drawn["graphs_s"] - 1))
        lengths.append(drawn["graphs_s"])
    return {
        f"graphs of {steps} steps p50, ms": ms(median(lengths)),
        "daemon between the steps beside the graphs p50, %": round(median(shares), 2),
        "daemon and sampler beside the graphs p50, %": round(median(besides), 2),
    }


@contextlib.contextmanager
def timed_engine(config: Path) -> Iterator[IO[str]]:
    """The engine with a clock; what it says of each picture, a line each."""
    command = [sys.executable, str(Path(__file__).with_name("timed_engine.py")), str(config)]
    engine = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert engine.stdout is not None
    try:
        yield engine.stdout
    finally:
        engine.terminate()
        engine.wait()


class front:
    """`edgegen run` while the block lasts."""

    def __init__(self, config: Path, *options: str):
        self._command = [sys.executable, "-m", "edgegen", "--config", str(config), "run", *options]

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._command, env=dict(os.environ), stderr=subprocess.DEVNULL)

    def __exit__(self, *_exc: object) -> None:
        self._process.terminate()
        self._process.wait()


def ms(seconds: float) -> float:
    return round(1000 * seconds, 1)


if __name__ == "__main__":
    main()
