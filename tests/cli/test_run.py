"""The real daemon through the command line: words go in, a picture comes out."""

import json
import signal
import subprocess

import pytest

from tests.support import wait_for

START_S = 120


@pytest.fixture
def start(device):
    running = []

    def start(*args):
        log = (device.home / f"{args[0]}.log").open("w")
        process = subprocess.Popen(
            device.command(*args), stdout=log, stderr=log, cwd=device.home, env=device.environ()
        )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait(30)


def ask(device, *args):
    return json.loads(device.run(*args, "--json").stdout)


def wait_until_up(device, process):
    def up():
        assert process.poll() is None, [path.read_text() for path in device.home.glob("*.log")]
        told = ask(device, "status")
        return told["source"] == "daemon" and told["daemon"]["engine"]

    wait_for(up, "the daemon and its engine are up", START_S)


def finish(device, job_id):
    def done():
        [job] = [job for job in ask(device, "queue", "--all")["jobs"] if job["id"] == job_id]
        assert job["state"] not in ("failed", "cancelled"), job
        return job["state"] == "done"

    wait_for(done, "the job is done", START_S)


def stop(process):
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def test_words_in_a_picture_out(device, start):
    daemon = start("run")
    wait_until_up(device, daemon)
    added = ask(device, "queue", "add", "a red apple", "--seed", "7", "--steps", "2")
    assert added["source"] == "daemon"
    finish(device, added["job"]["id"])
    [job] = ask(device, "queue", "--all")["jobs"]
    assert job["seed"] == 7
    assert (device.home / "data/gallery" / job["picture"]).is_file()
    checks = {check["name"]: check for check in ask(device, "doctor")["checks"]}
    assert checks["daemon"]["state"] == "ok"
    assert "engine ready" in device.run("status").stdout
    stop(daemon)
    assert "not running" in device.run("status").stdout


def test_front_and_engine_as_two_units(device, start):
    job_id = device.run("queue", "add", "a red apple", "--steps", "2").stdout.strip()
    front = start("run", "--front-only")
    engine = start("engine")
    wait_until_up(device, front)
    finish(device, job_id)
    stop(engine)
    stop(front)
