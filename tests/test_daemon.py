"""The front as a process of its own."""

from __future__ import annotations

import collections
import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from PIL import Image

from edgegen.config.files import database_path
from edgegen.daemon import FrontEnds
from edgegen.errors import BadRequest
from edgegen.jobs.job import Job, JobRequest, JobState
from edgegen.jobs.link import FrontError, ShellLink
from edgegen.jobs.pace import read_pace
from edgegen.jobs.queue import JobQueue
from edgegen.settings import Settings

from .jobs.test_hub import PATIENCE_S, eventually
from .support import text_to_image_graph

RUN = """
import sys
from edgegen.daemon import run_front
from edgegen.settings import Settings
code = run_front(Settings.model_validate_json(sys.argv[1]), with_engine=sys.argv[2] == "True")
heavy = {"numpy", "PIL", "onnxruntime", "torch"} & set(sys.modules)
print("heavy:", sorted(heavy))
sys.exit(code)
"""


class Appliance:
    """A front in a process, its folder, and a shell to talk to it."""

    def __init__(self, folder: Path, **sections):
        self.settings = Settings.model_validate(
            {"node": {"data_dir": folder / "data", "run_dir": folder / "run"}, **sections},
        )
        self.process: subprocess.Popen[str] | None = None
        self.log = folder / "log"

    def start(self, with_engine: bool) -> None:
        arguments = (self.settings.model_dump_json(), str(with_engine))
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, *arguments],
            stdout=subprocess.PIPE,
            stderr=self.log.open("a"),
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        eventually(self._answers)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return bool(self.ask("status"))
        except FrontError:
            return False

    def ask(self, question: str, **fields) -> dict:
        with ShellLink(self.settings.node.run_dir / "edgegen.sock", PATIENCE_S) as shell:
            return shell.ask(question, **fields)

    def submit(self, prompt: str = "a red apple", **fields) -> dict:
        return self.ask("submit", request={"prompt": prompt, **fields})["job"]

    def stop(self, with_signal: int = signal.SIGTERM) -> tuple[int, str]:
        """Exit code and what it printed."""
        assert self.process is not None
        self.process.send_signal(with_signal)
        printed, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, printed


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="eg-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def make_appliance(folder):
    made: list[Appliance] = []

    def make(**sections) -> Appliance:
        made.append(Appliance(folder, **sections))
        return made[-1]

    yield make
    for appliance in made:
        if appliance.process and appliance.process.poll() is None:
            appliance.stop()


def test_the_front_stays_light_and_stops_cleanly(make_appliance):
    appliance = make_appliance()
    appliance.start(with_engine=False)
    assert appliance.submit(id="a")["state"] == "queued"
    mapped = Path(f"/proc/{appliance.process.pid}/maps").read_text()
    assert not [name for name in ("numpy", "onnxruntime", "PIL") if f"/{name}/" in mapped]
    code, printed = appliance.stop()
    assert (code, printed) == (0, "heavy: []\n"), appliance.log.read_text()
    assert not (appliance.settings.node.run_dir / "edgegen.sock").exists()


def test_a_restart_loses_nothing(make_appliance):
    appliance = make_appliance()
    appliance.start(with_engine=False)
    appliance.submit(id="a")
    appliance.process.kill()
    appliance.process.wait()
    appliance.start(with_engine=False)
    assert appliance.ask("status")["jobs"]["queued"] == 1
    assert appliance.ask("cancel", id="a")["job"]["state"] == "cancelled"
    assert appliance.stop(signal.SIGINT)[0] == 0


def test_the_front_refuses_blocked_prompts_and_too_many_jobs(make_appliance):
    appliance = make_appliance(prompts={"block": ["gun"]}, rate={"cli_per_min": 1, "burst": 2})
    appliance.start(with_engine=False)
    with pytest.raises(BadRequest) as blocked:
        appliance.submit("a GÜN")
    assert blocked.value.code == "blocked_prompt"
    appliance.submit(id="a")
    appliance.submit(id="b")
    with pytest.raises(BadRequest, match="try again in") as limited:
        appliance.submit(id="c")
    assert limited.value.code == "rate_limited"
    assert appliance.submit(id="a")["state"] == "queued", "a redelivery is never refused"


def test_a_second_front_is_refused(make_appliance):
    first, second = make_appliance(), make_appliance()
    first.start(with_engine=False)
    with pytest.raises(AssertionError, match="another `edgegen run` serves it"):
        second.start(with_engine=False)
        second.process.wait(PATIENCE_S)
        second._answers()
    assert first.ask("status")


def test_systemd_hears_that_we_are_ready(make_appliance, folder, monkeypatch):
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(PATIENCE_S)
        manager.bind(str(folder / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        appliance = make_appliance()
        appliance.start(with_engine=False)
        said = [manager.recv(4096).decode() for _ in range(3)]
        assert said[0].startswith("READY=1\n")
        assert said[1:] == ["WATCHDOG=1", "WATCHDOG=1"]
        appliance.process.send_signal(signal.SIGTERM)
        while said[-1] != "STOPPING=1":
            said.append(manager.recv(4096).decode())


PACKS = Path(__file__).parent / "packs"
ENGINE = {"pack": "tiny", "pack_dirs": [PACKS], "provider": "cpu", "threads": 1}


LIMITS = {"steps": 1000}
LONG = 300  # steps that take seconds


def engine_pid(appliance: Appliance) -> int | None:
    """The engine's process id, as /proc knows it."""
    children = Path(f"/proc/{appliance.process.pid}/task")
    found = [int(pid) for task in children.iterdir() for pid in (task / "children").read_text().split()]
    return found[0] if found else None


def jobs_in(appliance: Appliance) -> dict[str, Job]:
    queue = JobQueue(database_path(appliance.settings.node))
    try:
        return {job.id: job for job in queue.list()}
    finally:
        queue.close()


def wait_until_all_are_final(appliance: Appliance) -> dict[str, Job]:
    eventually(lambda: all(job.state.is_final for job in jobs_in(appliance).values()), timeout_s=200)
    return jobs_in(appliance)


def watch_until(appliance: Appliance, wanted: str, job_id: str, act=lambda: None) -> dict:
    """The first event of that kind of that job, after `act` has been called."""
    with ShellLink(appliance.settings.node.run_dir / "edgegen.sock", PATIENCE_S) as shell:
        events = shell.watch()
        act()
        return next(e for e in events if e["kind"] == wanted and e["job"]["id"] == job_id)


def test_three_jobs_become_three_pictures(make_appliance):
    appliance = make_appliance(engine=ENGINE, limits=LIMITS, mqtt={"image_format": "jpeg"})
    appliance.start(with_engine=True)
    for job_id in ("a", "b", "c"):
        appliance.submit(id=job_id, seed=5)
    done = wait_until_all_are_final(appliance)
    assert {job.state for job in done.values()} == {JobState.DONE}, appliance.log.read_text()
    gallery = appliance.settings.node.data_dir / "gallery"
    pixels = []
    for job in done.values():
        with Image.open(gallery / job.picture) as picture:
            assert picture.info["edgegen"]
            pixels.append(picture.tobytes())
    assert len(set(pixels)) == 1, "the same seed gives the same picture"
    assert [job.seed for job in done.values()] == [5, 5, 5]
    with contextlib.closing(JobQueue(database_path(appliance.settings.node))) as queue:
        assert {key.split("/")[2] for key in read_pace(queue.database)} == {
            *("text_encoder", "unet", "vae_decoder")
        }, "the device knows how fast it is"
    assert appliance.stop() == (0, "heavy: []\n"), appliance.log.read_text()


def test_a_killed_engine_costs_an_attempt_and_no_job(make_appliance):
    appliance = make_appliance(engine=ENGINE, limits=LIMITS)
    appliance.start(with_engine=True)
    running = watch_until(appliance, "running", "a", lambda: appliance.submit(id="a", steps=LONG))
    assert running["job"]["attempts"] == 1
    os.kill(engine_pid(appliance), signal.SIGKILL)
    (job,) = wait_until_all_are_final(appliance).values()
    assert (job.state, job.attempts) == (JobState.DONE, 2), appliance.log.read_text()
    assert "was killed (SIGKILL: out of memory?)" in appliance.log.read_text()


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_sde"])
def test_a_killed_engines_job_goes_on_at_its_step_to_the_identical_picture(make_appliance, sampler):
    appliance = make_appliance(engine={**ENGINE, "checkpoint_s": 0.05}, limits=LIMITS)
    appliance.start(with_engine=True)
    wanted = {"steps": 100, "seed": 5, "sampler": sampler}
    kept = appliance.settings.node.data_dir / "checkpoints" / "a.checkpoint"
    steps: list[int] = []
    is_killed = False
    with ShellLink(appliance.settings.node.run_dir / "edgegen.sock", PATIENCE_S) as shell:
        events = shell.watch()
        appliance.submit(id="a", **wanted)
        for event in events:
            if event["kind"] == "running":
                if event["job"]["attempts"] == 2:
                    break
                steps.append(event["step"])
                if event["step"] >= 30 and not is_killed:  # not every step of milliseconds is told
                    assert kept.exists()
                    os.kill(engine_pid(appliance), signal.SIGKILL)
                    is_killed = True
    assert 0 < event["step"] <= steps[-1] + 1, "the second attempt begins where the file says"
    appliance.submit(id="b", **wanted)
    jobs = wait_until_all_are_final(appliance)
    assert (jobs["a"].state, jobs["a"].attempts) == (JobState.DONE, 2), appliance.log.read_text()
    assert f"job a goes on at step {event['step']}" in appliance.log.read_text()
    pictures = [Image.open(appliance.settings.node.data_dir / "gallery" / jobs[k].picture) for k in "ab"]
    assert pictures[0].tobytes() == pictures[1].tobytes()
    assert not kept.exists()


def test_a_job_that_always_kills_its_engine_fails(make_appliance):
    appliance = make_appliance(engine=ENGINE, limits=LIMITS, queue={"max_attempts": 1})
    appliance.start(with_engine=True)
    watch_until(appliance, "running", "a", lambda: appliance.submit(id="a", steps=LONG))
    appliance.submit(id="b")
    os.kill(engine_pid(appliance), signal.SIGKILL)
    jobs = wait_until_all_are_final(appliance)
    assert (jobs["a"].state, jobs["a"].code) == (JobState.FAILED, "engine_died")
    assert jobs["a"].reason == "the engine was killed (SIGKILL: out of memory?) (attempt 1 of 1)"
    assert jobs["b"].state == JobState.DONE


def test_cancelling_a_running_job(make_appliance):
    appliance = make_appliance(engine=ENGINE, limits=LIMITS)
    appliance.start(with_engine=True)
    watch_until(appliance, "running", "a", lambda: appliance.submit(id="a", steps=LONG))
    event = watch_until(appliance, "cancelled", "a", lambda: appliance.ask("cancel", id="a"))
    assert event["job"]["reason"] == "cancelled while it ran"
    appliance.submit(id="b")
    assert wait_until_all_are_final(appliance)["b"].state == JobState.DONE, "the engine lives on"


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_in_the_middle_of_a_job_loses_nothing(make_appliance, with_signal):
    appliance = make_appliance(engine=ENGINE, limits=LIMITS)
    appliance.start(with_engine=True)
    watch_until(appliance, "running", "a", lambda: appliance.submit(id="a", steps=LONG))
    appliance.submit(id="b")
    pid = engine_pid(appliance)
    appliance.stop(with_signal)
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    jobs = jobs_in(appliance)
    assert (jobs["a"].state, jobs["a"].attempts) == (JobState.QUEUED, 0), "given back, not blamed"
    appliance.start(with_engine=True)
    jobs = wait_until_all_are_final(appliance)
    assert {job.state for job in jobs.values()} == {JobState.DONE}, appliance.log.read_text()
    assert appliance.stop()[0] == 0


def test_two_units_as_under_systemd(make_appliance):
    """The engine works without a front, is found by one that comes, and its death is noticed there."""
    appliance = make_appliance(engine=ENGINE, limits=LIMITS)
    queue = JobQueue(database_path(appliance.settings.node))
    queue.enqueue(JobRequest("early", "a red apple"))
    engine = start_engine(appliance)
    eventually(lambda: queue.get("early").state == JobState.DONE)
    appliance.start(with_engine=False)
    eventually(lambda: appliance.ask("status")["engine"])
    watch_until(appliance, "running", "a", lambda: appliance.submit(id="a", steps=LONG))
    event = watch_until(appliance, "queued", "a", engine.kill)
    assert event["job"]["attempts"] == 1
    engine.wait()
    assert not appliance.ask("status")["engine"]
    engine = start_engine(appliance)
    assert wait_until_all_are_final(appliance)["a"].state == JobState.DONE
    second = start_engine(appliance)
    assert second.wait(PATIENCE_S) == 6
    assert "another engine works on this queue" in appliance.log.read_text()
    engine.terminate()
    assert engine.wait(PATIENCE_S) == 0
    queue.close()


def start_engine(appliance: Appliance) -> subprocess.Popen[bytes]:
    """An engine that is not the front's child."""
    engine = subprocess.Popen(
        [sys.executable, "-m", "edgegen.jobs.worker"],
        stdin=subprocess.PIPE,
        stderr=appliance.log.open("a"),
        cwd=Path(__file__).parent.parent,
    )
    engine.stdin.write(appliance.settings.model_dump_json().encode() + b"\n")
    engine.stdin.flush()
    return engine


@pytest.mark.parametrize(
    ("asked", "code", "reason"),
    [
        ({"pack": "tinny"}, "unknown_pack", "Did you mean 'tiny'?"),
        ({"width": 9}, "bad_request", "width: 9 is not allowed"),
    ],
)
def test_what_only_the_engine_can_refuse(make_appliance, asked, code, reason):
    appliance = make_appliance(engine=ENGINE, limits=LIMITS)
    appliance.start(with_engine=True)
    appliance.submit(id="a", **asked)
    job = wait_until_all_are_final(appliance)["a"]
    assert (job.state, job.code) == (JobState.FAILED, code)
    assert reason in job.reason


def test_a_picture_over_mqtt(make_appliance, broker, folder):
    """The whole way of one job: command, statuses, and the bytes the engine prepared."""
    got: dict[str, bytes] = {}
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_message = lambda client, data, message: got.update({message.topic: message.payload})
    client.connect("127.0.0.1", broker.port)
    client.subscribe("edgegen/#", 1)
    client.loop_start()
    mqtt = {"enabled": True, "host": "127.0.0.1", "port": broker.port, "previews": True}
    appliance = make_appliance(
        engine=ENGINE,
        limits=LIMITS,
        mqtt=mqtt,
        node={"name": "kiosk", "data_dir": folder / "data", "run_dir": folder / "run"},
    )
    appliance.start(with_engine=True)
    eventually(lambda: got.get("edgegen/kiosk/availability") == b"online")
    client.publish("edgegen/kiosk/generate", '{"id": "a", "prompt": "a red apple"}', qos=1)
    eventually(lambda: b'"done"' in got.get("edgegen/kiosk/job/a/status", b""), timeout_s=200)
    eventually(lambda: "edgegen/kiosk/last/image" in got)
    with Image.open(io.BytesIO(got["edgegen/kiosk/last/image"])) as image:
        assert image.format == "WEBP"
    with Image.open(io.BytesIO(got["edgegen/kiosk/job/a/preview"])) as image:
        assert (image.format, max(image.size)) == ("JPEG", 64)
    assert appliance.stop() == (0, "heavy: []\n"), appliance.log.read_text()
    eventually(lambda: got["edgegen/kiosk/availability"] == b"offline")
    client.loop_stop()


def test_a_stored_workflow_over_mqtt_whose_engine_is_killed(make_appliance, broker, folder):
    """Its steps go on where they were, and the picture is the one of a job that nothing disturbed."""
    got: dict[str, list[bytes]] = collections.defaultdict(list)
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_message = lambda client, data, message: got[message.topic].append(message.payload)
    client.connect("127.0.0.1", broker.port)
    client.subscribe("edgegen/#", 1)
    client.loop_start()
    told = lambda job_id: [json.loads(m) for m in got[f"edgegen/kiosk/job/{job_id}/status"]]  # noqa: E731
    stored = folder / "data" / "workflows"
    stored.mkdir(parents=True)
    graph = text_to_image_graph("%prompt%", sampler_name="dpmpp_sde", steps=100)
    (stored / "form.json").write_text(json.dumps(graph))
    appliance = make_appliance(
        engine={**ENGINE, "checkpoint_s": 0.05},
        mqtt={"enabled": True, "host": "127.0.0.1", "port": broker.port, "home_assistant": False},
        node={"name": "kiosk", "data_dir": folder / "data", "run_dir": folder / "run"},
    )
    appliance.start(with_engine=True)
    eventually(lambda: got["edgegen/kiosk/availability"] == [b"online"])
    client.publish(
        "edgegen/kiosk/generate", '{"id": "a", "workflow": "form", "prompt": "a red apple"}', qos=1
    )
    eventually(lambda: (folder / "data" / "checkpoints" / "a.checkpoint").exists())
    os.kill(engine_pid(appliance), signal.SIGKILL)
    client.publish(
        "edgegen/kiosk/generate", '{"id": "b", "workflow": "form", "prompt": "a red apple"}', qos=1
    )
    eventually(lambda: len(jobs_in(appliance)) == 2)
    jobs = wait_until_all_are_final(appliance)
    assert {job.state for job in jobs.values()} == {JobState.DONE}, appliance.log.read_text()
    assert (jobs["a"].attempts, jobs["a"].seed, jobs["a"].request.title) == (2, 7, "a red apple")
    assert "job a goes on at step" in appliance.log.read_text()
    eventually(lambda: all(told(k) and told(k)[-1]["state"] == "done" for k in "ab"))
    states = [(status["state"], status.get("step")) for status in told("a")]
    again = states.index(("queued", None), 1)
    assert states[again + 1][1] > 0, "the second attempt begins at its step"
    pictures = [Image.open(folder / "data" / "gallery" / jobs[k].picture) for k in "ab"]
    assert pictures[0].tobytes() == pictures[1].tobytes()
    client.loop_stop()
    assert appliance.stop() == (0, "heavy: []\n"), appliance.log.read_text()


def test_a_result_survives_an_absent_broker_and_a_killed_front(make_appliance, broker, folder):
    mqtt = {"enabled": True, "host": "127.0.0.1", "port": broker.port}
    node = {"name": "kiosk", "data_dir": folder / "data", "run_dir": folder / "run"}
    appliance = make_appliance(engine=ENGINE, limits=LIMITS, mqtt=mqtt, node=node)
    broker.stop()
    appliance.start(with_engine=True)
    appliance.submit(id="a", seed=5)
    assert wait_until_all_are_final(appliance)["a"].state == JobState.DONE, appliance.log.read_text()
    appliance.process.kill()
    appliance.process.wait()
    appliance.start(with_engine=False)
    assert appliance.ask("status")["outbox"] == {"waiting": 1, "dropped": 0}
    broker.start()
    got: list[tuple[str, bytes]] = []
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_message = lambda client, data, message: got.append((message.topic, message.payload))
    client.connect("127.0.0.1", broker.port)
    client.subscribe("edgegen/#", 1)
    client.loop_start()
    eventually(lambda: appliance.ask("status")["outbox"]["waiting"] == 0)
    eventually(lambda: any(topic == "edgegen/kiosk/last/image" for topic, _ in got))
    heard = [payload for topic, payload in got if topic == "edgegen/kiosk/job/a/status"]
    assert len(heard) == 1
    assert json.loads(heard[0])["state"] == "done"
    with Image.open(io.BytesIO(next(p for t, p in got if t.endswith("last/image")))) as image:
        assert image.format == "WEBP"
    client.loop_stop()
    assert appliance.stop()[0] == 0, appliance.log.read_text()


def test_a_front_killed_again_and_again_loses_no_result_and_repeats_at_most_one_each_time(
    make_appliance, broker, folder
):
    mqtt = {"enabled": True, "host": "127.0.0.1", "port": broker.port, "home_assistant": False}
    node = {"name": "kiosk", "data_dir": folder / "data", "run_dir": folder / "run"}
    appliance = make_appliance(engine=ENGINE, limits=LIMITS, mqtt=mqtt, node=node)
    got: list[tuple[str, bytes]] = []
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_message = lambda client, data, message: got.append((message.topic, message.payload))
    client.connect("127.0.0.1", broker.port)
    client.subscribe("edgegen/#", 1)
    client.loop_start()

    def done_ids() -> list[str]:
        statuses = [json.loads(payload) for topic, payload in list(got) if topic.endswith("/status")]
        return [status["id"] for status in statuses if status["state"] == "done"]

    names = [f"j{number:02}" for number in range(40)]
    queue = JobQueue(database_path(appliance.settings.node))
    for name in names:
        queue.enqueue(JobRequest(name, "a red apple", steps=2))
    engine = start_engine(appliance)
    crashes, rng = 4, random.Random(7)
    for _ in range(crashes):
        appliance.start(with_engine=False)
        already = len(done_ids())
        eventually(lambda told=already: len(done_ids()) > told or len(set(done_ids())) == len(names))
        time.sleep(rng.uniform(0, 0.1))
        appliance.process.kill()
        appliance.process.wait()
    appliance.start(with_engine=False)
    wait_until_all_are_final(appliance)
    eventually(lambda: appliance.ask("status")["outbox"] == {"waiting": 0, "dropped": 0})
    eventually(lambda: len(set(done_ids())) == len(names))
    heard = done_ids()
    assert list(dict.fromkeys(heard)) == names, "in the order of their ends"
    assert len(heard) - len(names) <= crashes
    last = [json.loads(payload)["id"] for topic, payload in got if topic.endswith("last/meta")]
    assert last[-1] == names[-1]
    client.loop_stop()
    engine.terminate()
    engine.wait()
    queue.close()


class Fickle:
    """A front end that starts at the second try."""

    def __init__(self, log: list[str]):
        self.log = log

    def start(self) -> None:
        self.log.append("start")
        if len(self.log) < 3:
            raise OSError("no pins here")

    def close(self) -> None:
        self.log.append("close")


def test_a_front_end_that_cannot_start_takes_nothing_down(caplog):
    log: list[str] = []
    good: list[str] = ["", ""]
    front_ends = FrontEnds({"buttons": lambda: Fickle(log), "mqtt": lambda: Fickle(good)})
    front_ends.start_missing()
    assert list(front_ends.missing) == ["buttons"]
    assert "front end buttons cannot start, tried again every 30 s: OSError: no pins here" in caplog.text
    front_ends.start_missing()
    assert front_ends.missing == {}
    front_ends.close()
    front_ends.close()
    assert log == ["start", "close", "start", "close"]
    assert good == ["", "", "start", "close"]


def test_settings_reach_the_engine_unchanged():
    settings = Settings.model_validate(
        {"buttons": [{"pin": 4, "prompts": ["x"]}], "node": {"data_dir": "/x"}}
    )
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
    assert json.loads(settings.model_dump_json())["node"]["data_dir"] == "/x"
    assert os.fspath(settings.node.data_dir) == "/x"
