"""A device under torture: front and engine as two processes, a real broker, and somebody who sends jobs."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgegen.config.files import database_path
from edgegen.jobs.gallery import job_id_of
from edgegen.jobs.job import Job
from edgegen.jobs.queue import JobQueue
from edgegen.settings import Settings
from tests.support import Broker, wait_for

from .tally import Row, count

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 300.0
FINAL = ("done", "failed", "cancelled")
BASE = "edgegen/torture"


class Sender:
    """Sends commands and counts the statuses it hears, over broker restarts too."""

    def __init__(self, port: int):
        self.sent: dict[str, bytes] = {}
        self.asked_again = 0
        self.heard: dict[str, Counter[str]] = {}
        self.rejected: list[dict[str, Any]] = []
        self.availability: list[bytes] = []
        self._ready = threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, "sender", protocol=paho.MQTTv5)
        self._client.on_connect = self._subscribe
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._note
        self._client.reconnect_delay_set(1, 1)
        keep = Properties(PacketTypes.CONNECT)
        keep.SessionExpiryInterval = 3600
        self._client.connect("127.0.0.1", port, clean_start=False, properties=keep)
        self._client.loop_start()
        assert self._ready.wait(PATIENCE_S), "the sender could not subscribe"

    def _subscribe(self, *_: object) -> None:
        self._client.subscribe([(f"{BASE}/job/+/status", 1), (f"{BASE}/availability", 1)])

    def _note(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        if message.topic.endswith("/availability"):
            self.availability.append(message.payload)
            return
        status = json.loads(message.payload)
        self.heard.setdefault(status["id"], Counter())[status["state"]] += 1
        if status["state"] == "rejected":
            self.rejected.append(status)

    def send(self, job_id: str, **fields: Any) -> None:
        request = {"id": job_id, "prompt": "a red apple", "steps": 1, "width": 64, "height": 64, **fields}
        self.sent[job_id] = json.dumps(request).encode()
        self.raw(self.sent[job_id])

    def raw(self, payload: bytes, retain: bool = False) -> None:
        self._client.publish(f"{BASE}/generate", payload, qos=1, retain=retain)

    def ends(self) -> Counter[str]:
        """How many final statuses were heard of each job."""
        return Counter({i: sum(told[s] for s in FINAL) for i, told in list(self.heard.items())})

    def send_unheard_again(self) -> list[str]:
        """Commands of whose end we never heard go out once more, as a careful sender does."""
        ends = self.ends()
        waiting = [i for i in self.sent if not ends[i] and not self.heard.get(i, {}).get("rejected")]
        for job_id in waiting:
            self.asked_again += 1
            self.raw(self.sent[job_id])
        return waiting

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Rig:
    """One device. `port` is where it finds the broker, which a cuttable link may stand before."""

    def __init__(self, folder: Path, broker_port: int, port: int | None = None, **sections: Any):
        node = {"name": "torture", "data_dir": folder / "data", "run_dir": folder / "run"}
        mqtt = {"enabled": True, "host": "127.0.0.1", "port": port or broker_port, "keepalive_s": 5}
        engine = {"pack": "tiny", "pack_dirs": [ROOT / "tests/packs"], "provider": "cpu", "threads": 1}
        given = {
            "node": node,
            "mqtt": {**mqtt, "home_assistant": False, "image_format": "jpeg"},
            "engine": engine,
            "queue": {"max_jobs": 100_000, "max_attempts": 20, "keep_finished": 100_000},
            "gallery": {"reserve_mb": 0},
        }
        for name, values in sections.items():
            given[name] = {**given.get(name, {}), **values}
        self.settings = Settings.model_validate(given)
        self.data = folder / "data"
        self.log = folder / "log"
        self.clock = folder / "clock"
        self.clock.write_text("0")
        self.crashes = 0
        self.sender = Sender(broker_port)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *parts: str) -> None:
        for part in parts or ("front", "engine"):
            command = [sys.executable, "-m", "tests.torture.launch", part, str(self.clock)]
            with self.log.open("a") as log:
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log, cwd=ROOT)
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(self.settings.model_dump_json().encode() + b"\n")
                process.stdin.flush()
            self._processes[part] = process

    def wait_online(self) -> None:
        wait_for(lambda: self.sender.availability[-1:] == [b"online"], self.told("online"), PATIENCE_S)

    def kill(self, part: str) -> None:
        """As the kernel does when memory is out: no goodbye."""
        self.crashes += 1
        self._processes[part].kill()
        self._processes[part].wait()

    def revive_dead(self) -> None:
        """What systemd does: whatever has ended starts again."""
        if dead := [part for part, process in self._processes.items() if process.poll() is not None]:
            self.start(*dead)

    def exit_code(self, part: str) -> int:
        return self._processes[part].wait(PATIENCE_S)

    def stop(self, *parts: str) -> None:
        for part in parts or tuple(self._processes):
            self._processes[part].terminate()
        for part in parts or tuple(self._processes):
            self._processes[part].wait(PATIENCE_S)

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
        self.sender.close()

    def jobs(self) -> list[Job]:
        queue = JobQueue(database_path(self.settings.node))
        try:
            return queue.list(limit=1_000_000)
        finally:
            queue.close()

    def pictures(self) -> Counter[str]:
        names = [path.name for path in (self.data / "gallery").glob("*.png")]
        return Counter(i for name in names if (i := job_id_of(name)))

    def wait_ends(self, ids: Iterable[str] | None = None, ask_every_s: float | None = None) -> None:
        """Until an end of every job was heard; asking again in between where messages can be lost.

        However many they are: patience is over when none ends any more.
        """
        wanted = set(self.sender.sent if ids is None else ids)
        give_up, ask_at = time.monotonic() + PATIENCE_S, time.monotonic() + (ask_every_s or PATIENCE_S)
        missing, before = wanted, len(wanted)
        while missing := self._without_end(missing):
            if len(missing) < before:
                before, give_up = len(missing), time.monotonic() + PATIENCE_S
            assert time.monotonic() < give_up, self.told(f"the ends of {sorted(missing)[:20]}")
            if time.monotonic() > ask_at:
                self.sender.send_unheard_again()
                ask_at = time.monotonic() + (ask_every_s or PATIENCE_S)
            time.sleep(0.05)

    def _without_end(self, ids: set[str]) -> set[str]:
        ends = self.sender.ends()
        return {i for i in ids if not ends[i] and not self._is_rejected(i)}

    def _is_rejected(self, job_id: str) -> bool:
        return bool(self.sender.heard.get(job_id, Counter())["rejected"])

    def told(self, what: str) -> str:
        return f"{what}; the log ends with:\n{self.log.read_text()[-3000:] if self.log.exists() else ''}"

    def row(self, scenario: str, seed: int) -> Row:
        jobs = self.jobs()
        told = [i for i, states in self.sender.heard.items() if states["queued"]]
        refused = [job.id for job in jobs if job.state in ("failed", "cancelled") and job.code and job.reason]
        accepted = {job.id for job in jobs} | set(told)
        asked_again = self.sender.asked_again
        ends, pictures = self.sender.ends(), self.pictures()
        return count(scenario, seed, self.crashes, accepted, pictures, refused, ends, asked_again)


@contextlib.contextmanager
def make_rig(extra_broker: str = "", **sections: Any) -> Iterator[tuple[Rig, Broker]]:
    """A device and its broker in a new folder with a short name: a socket's path may have 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="egt-", dir="/tmp"))
    (folder / "broker").mkdir()
    broker = Broker(folder / "broker", f"max_queued_messages 0\n{extra_broker}")
    broker.start()
    rig = None
    try:
        rig = Rig(folder, broker.port, **sections)
        yield rig, broker
    finally:
        if rig:
            rig.close()
        broker.stop(kill=True)
        shutil.rmtree(folder, ignore_errors=True)


def pause(rng: random.Random, least_s: float, most_s: float) -> None:
    time.sleep(rng.uniform(least_s, most_s))
