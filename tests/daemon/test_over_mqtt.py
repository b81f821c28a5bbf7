"""A device and a real broker: commands, results, and what happens when either goes away."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import time

import paho.mqtt.client as paho
from PIL import Image

from edgegen.config.files import database_path
from edgegen.jobs.job import JobRequest, JobState
from edgegen.jobs.queue import JobQueue
from tests.frontends.mqtt.conftest import Phone
from tests.support import text_to_image_graph, wait_for

from .device import engine_pid, jobs_in, start_engine, wait_until_all_are_final

HERE = "edgegen/kiosk"


def opened(phone: Phone, topic: str) -> Image.Image:
    return Image.open(io.BytesIO(phone.on(topic)[-1].payload))


def last(phone: Phone, topic: str) -> bytes | None:
    heard = phone.on(topic)
    return heard[-1].payload if heard else None


def test_a_picture_over_mqtt(make_kiosk, phone):
    """The whole way of one job: command, statuses, and the bytes the engine prepared."""
    kiosk = make_kiosk({"previews": True})
    kiosk.start(with_engine=True)
    wait_for(lambda: last(phone, f"{HERE}/availability") == b"online")
    phone.send(f"{HERE}/generate", {"id": "a", "prompt": "a red apple"})
    wait_for(lambda: phone.statuses(id="a", state="done"), timeout_s=200)
    wait_for(lambda: phone.on(f"{HERE}/last/image"))
    with opened(phone, f"{HERE}/last/image") as image:
        assert image.format == "WEBP"
    with opened(phone, f"{HERE}/job/a/preview") as image:
        assert (image.format, max(image.size)) == ("JPEG", 64)
    assert kiosk.stop() == (0, "heavy: []\n"), kiosk.log.read_text()
    wait_for(lambda: last(phone, f"{HERE}/availability") == b"offline")


def test_a_stored_workflow_over_mqtt_whose_engine_is_killed(make_kiosk, phone, folder):
    """Its steps go on where they were, and the picture is the one of a job that nothing disturbed."""
    stored = folder / "data" / "workflows"
    stored.mkdir(parents=True)
    graph = text_to_image_graph("%prompt%", sampler_name="dpmpp_sde", steps=100)
    (stored / "form.json").write_text(json.dumps(graph))
    kiosk = make_kiosk({"home_assistant": False}, checkpoint_s=0.05)
    kiosk.start(with_engine=True)
    wait_for(lambda: last(phone, f"{HERE}/availability") == b"online")
    phone.send(f"{HERE}/generate", {"id": "a", "workflow": "form", "prompt": "a red apple"})
    wait_for(lambda: (folder / "data" / "checkpoints" / "a.checkpoint").exists())
    os.kill(engine_pid(kiosk), signal.SIGKILL)
    phone.send(f"{HERE}/generate", {"id": "b", "workflow": "form", "prompt": "a red apple"})
    wait_for(lambda: len(jobs_in(kiosk)) == 2)
    jobs = wait_until_all_are_final(kiosk)
    assert {job.state for job in jobs.values()} == {JobState.DONE}, kiosk.log.read_text()
    assert (jobs["a"].attempts, jobs["a"].seed, jobs["a"].request.title) == (2, 7, "a red apple")
    assert kiosk.says("job a goes on at step")
    wait_for(lambda: all(phone.statuses(id=k)[-1:] == phone.statuses(id=k, state="done") for k in "ab"))
    states = [(status["state"], status.get("step")) for status in phone.statuses(id="a")]
    again = states.index(("queued", None), 1)
    assert states[again + 1][1] > 0, "the second attempt begins at its step"
    pictures = [Image.open(folder / "data" / "gallery" / jobs[k].picture) for k in "ab"]
    assert pictures[0].tobytes() == pictures[1].tobytes()
    assert kiosk.stop() == (0, "heavy: []\n"), kiosk.log.read_text()


def test_a_result_survives_an_absent_broker_and_a_killed_front(make_kiosk, broker):
    kiosk = make_kiosk({})
    broker.stop()
    kiosk.start(with_engine=True)
    kiosk.submit(id="a", seed=5)
    assert wait_until_all_are_final(kiosk)["a"].state == JobState.DONE, kiosk.log.read_text()
    kiosk.kill()
    kiosk.start(with_engine=False)
    assert kiosk.ask("status")["outbox"] == {"waiting": 1, "dropped": 0}
    broker.start()
    phone = Phone(broker.port, paho.MQTTv311)
    wait_for(lambda: kiosk.ask("status")["outbox"]["waiting"] == 0)
    wait_for(lambda: phone.on(f"{HERE}/last/image"))
    assert [status["state"] for status in phone.statuses(id="a")] == ["done"]
    with opened(phone, f"{HERE}/last/image") as image:
        assert image.format == "WEBP"
    phone.close()
    assert kiosk.stop()[0] == 0, kiosk.log.read_text()


def test_a_front_killed_again_and_again_loses_no_result_and_repeats_at_most_one_each_time(make_kiosk, phone):
    kiosk = make_kiosk({"home_assistant": False})
    names = [f"j{number:02}" for number in range(40)]
    queue = JobQueue(database_path(kiosk.settings.node))
    for name in names:
        queue.enqueue(JobRequest(name, "a red apple", steps=2))

    def done_ids() -> list[str]:
        return [status["id"] for status in phone.statuses(state="done")]

    engine = start_engine(kiosk)
    crashes, rng = 4, random.Random(7)
    for _ in range(crashes):
        kiosk.start(with_engine=False)
        already = len(done_ids())
        wait_for(lambda told=already: len(done_ids()) > told or len(set(done_ids())) == len(names))
        time.sleep(rng.uniform(0, 0.1))
        kiosk.kill()
    kiosk.start(with_engine=False)
    wait_until_all_are_final(kiosk)
    wait_for(lambda: kiosk.ask("status")["outbox"] == {"waiting": 0, "dropped": 0})
    wait_for(lambda: len(set(done_ids())) == len(names))
    heard = done_ids()
    assert list(dict.fromkeys(heard)) == names, "in the order of their ends"
    assert len(heard) - len(names) <= crashes
    wait_for(lambda: json.loads(last(phone, f"{HERE}/last/meta") or b"{}").get("id") == names[-1])
    engine.terminate()
    engine.wait()
    queue.close()
