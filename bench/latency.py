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
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import IO, Any

import paho.mqtt.client as paho
from idle_front import broker

PATIENCE_S = 120.0
SYNCS = 200
BASE = "edgegen/bench"
EAGER = "set_tcp_nodelay true"  # of mosquitto; see Listener
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
    """When each message of the device came, by topic and state.

    Args:
        asks_elsewhere: publish over a connection of its own. A client that publishes with QoS 1 and listens
            over one connection waits up to 40 ms for its own kernel: it answers the broker's PUBACK with
            nothing, so its confirmation is delayed, and the broker holds the next small packet back for that
            long unless it sets TCP_NODELAY (mosquitto: `set_tcp_nodelay true`).
    """

    def __init__(self, port: int, asks_elsewhere: bool = True):
        self.at: dict[tuple[str, str], float] = {}
        self.sent: dict[str, float] = {}
        self._changed = threading.Condition()
        listening = connected(port, self._note)
        self._clients = [listening, connected(port)] if asks_elsewhere else [listening]

    def close(self) -> None:
        for client in self._clients:
            client.disconnect()
            client.loop_stop()

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
        self._clients[-1].publish(f"{BASE}/generate", payload, qos=1)

    def wait(self, *key: str) -> float:
        """When it came; waits for it."""
        with self._changed:
            if not self._changed.wait_for(lambda: key in self.at, PATIENCE_S):
                sys.exit(f"nothing came within {PATIENCE_S:g} s: {key}")
            return self.at[key]


def connected(port: int, note: Callable[..., object] | None = None) -> paho.Client:
    """A client that is there; with `note` one that has subscribed to all that the device says."""
    client, is_ready = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5), threading.Event()
    client.on_socket_open = lambda _c, _d, s: s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if note:
        client.on_message = note
        client.on_connect = lambda *_: client.subscribe(f"{BASE}/#", 1)
        client.on_subscribe = lambda *_: is_ready.set()
    else:
        client.on_connect = lambda *_: is_ready.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    if not is_ready.wait(PATIENCE_S):
        sys.exit(f"the broker does not answer within {PATIENCE_S:g} s")
    return client


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pack", default="pocket")
    parser.add_argument("--pack-dir", type=Path, default=Path("tests/packs"))
    parser.add_argument("--rate", type=float, default=200.0, help="messages a second (default 200)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to publish (default 5)")
    parser.add_argument("--jobs", type=int, default=20, help="jobs one after the other (default 20)")
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between them (default 0.2)")
    parser.add_argument("--long-jobs", type=int, default=5, help="jobs of a second and more (default 5)")
    parser.add_argument("--long-steps", type=int, default=100, help="steps of those (default 100)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    with device(args) as (config, port):
        found = measure(config, port, args)
    with device(args, EAGER) as (config, port):
        found |= at_work(config, Listener(port), args, f"engine at work, {EAGER}")
    for name, value in found.items():
        print(json.dumps(found) if args.json else f"{name}: {value}")
        if args.json:
            break


@contextlib.contextmanager
def device(args: argparse.Namespace, *broker_settings: str) -> Iterator[tuple[Path, int]]:
    """A configuration in a folder of its own, and the port of the broker it names."""
    with tempfile.TemporaryDirectory(prefix="eg") as folder, broker(Path(folder), *broker_settings) as port:
        time.sleep(1)  # mosquitto listens
        config = Path(folder) / "config.toml"
        pack_dir = args.pack_dir.resolve()
        config.write_text(CONFIG.format(folder=folder, port=port, pack=args.pack, pack_dir=pack_dir))
        yield config, port


def measure(config: Path, port: int, args: argparse.Namespace) -> dict[str, float]:
    """Milliseconds, by what they are of."""
    found = fsync_alone(config.parent)
    listener = Listener(port)
    began = time.monotonic()
    with front(config, "--front-only"):
        found["start to online, ms"] = ms(listener.wait(f"{BASE}/availability", "online") - began)
        found |= offered(listener, args.rate, args.seconds, "front alone")
    forget_jobs(config)
    found |= at_work(config, listener, args, "engine at work")
    forget_jobs(config)
    with front(config, "--front-only"), timed_engine(config) as pictures:
        listener = Listener(port)
        listener.wait(f"{BASE}/availability", "online")
        found |= one_by_one(listener, args.jobs, args.pause, pictures)
        found |= long_ones(listener, args.long_jobs, args.long_steps, pictures)
        listener.close()
        found |= one_connection(port, args.jobs, args.pause, pictures)
    return found


def at_work(config: Path, listener: Listener, args: argparse.Namespace, beside: str) -> dict[str, float]:
    """Publish to `queued` while the engine draws the first of them. Hangs up."""
    with front(config, "--front-only"), engine(config):
        listener.wait(f"{BASE}/availability", "online")  # a broker keeps nothing for strangers
        found = offered(listener, args.rate, args.seconds, beside)
    listener.close()
    return found


def forget_jobs(config: Path) -> None:
    """They are not what is measured next."""
    for path in (config.parent / "data").glob("edgegen.db*"):
        path.unlink()


def fsync_alone(folder: Path) -> dict[str, float]:
    """What a commit costs at least, here and now: 4 pages at the end of a file, and fsync."""
    waits = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            file.write(bytes(16384))
            began = time.monotonic()
            os.fsync(file.fileno())
            waits.append(time.monotonic() - began)
            time.sleep(0.005)
    return {"fsync alone p50, ms": ms(median(waits)), "fsync alone p99, ms": ms(p99(waits))}


def offered(listener: Listener, rate: float, seconds: float, beside: str) -> dict[str, float]:
    """Publish to `queued` while messages come in at a rate; with an engine, after it has drawn once."""
    names = [f"{beside.split()[0]}{number}" for number in range(int(rate * seconds))]
    if beside != "front alone":
        listener.publish("warm")
        listener.wait("warm", "done")
    began = time.monotonic()
    for number, name in enumerate(names):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        listener.publish(name)
    waits = [listener.wait(name, "queued") - listener.sent[name] for name in names]
    name = f"publish to queued, {beside}"
    return {f"{name}, p50, ms": ms(median(waits)), f"{name}, p99, ms": ms(p99(waits))}


def one_by_one(listener: Listener, jobs: int, pause: float, pictures: IO[str]) -> dict[str, float]:
    """An idle device gets one job after the other; the first one loads the graphs and does not count."""
    first, last = [], []
    listener.wait("image", "0")  # retained, of an earlier job
    for number in range(jobs + 1):
        time.sleep(pause)
        took_first, image = asked(listener, f"j{number}", number + 1)
        drawn = json.loads(pictures.readline())
        if number:
            first.append(took_first)
            last.append(image - drawn["decoded"])
    return {
        "publish to first step done p50, ms": ms(median(first)),
        "picture decoded to published p50, ms": ms(median(last)),
    }


def one_connection(port: int, jobs: int, pause: float, pictures: IO[str]) -> dict[str, float]:
    """The same, heard by a client that asks over the connection by which it listens."""
    listener, first = Listener(port, asks_elsewhere=False), []
    listener.wait("image", "0")  # retained, of an earlier job
    for number in range(jobs):
        time.sleep(pause)
        first.append(asked(listener, f"o{number}", number + 1)[0])
        pictures.readline()
    listener.close()
    return {"publish to first step done, over the listener's connection, p50, ms": ms(median(first))}


def asked(listener: Listener, name: str, number: int) -> tuple[float, float]:
    """Seconds until the first of a job's two steps, and when its picture came, the `number`th heard of."""
    listener.publish(name, steps=2)
    done = listener.wait(name, "done")
    image = listener.wait("image", str(number))
    return listener.at.get((name, "running1"), done) - listener.sent[name], image


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

    verb = "run"

    def __init__(self, config: Path, *options: str):
        self._command = [sys.executable, "-m", "edgegen", "--config", str(config), self.verb, *options]

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._command, env=dict(os.environ), stderr=subprocess.DEVNULL)

    def __exit__(self, *_exc: object) -> None:
        self._process.terminate()
        self._process.wait()


class engine(front):
    """`edgegen engine` while the block lasts."""

    verb = "engine"


def p99(waits: list[float]) -> float:
    return quantiles(waits, n=100)[98]


def ms(seconds: float) -> float:
    return round(1000 * seconds, 1)


if __name__ == "__main__":
    main()
