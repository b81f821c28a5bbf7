"""A running device whose configuration changes, breaks, is tried and rolled back. Real processes."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys

import paho.mqtt.client as paho
import pytest

from edgegen.config.trials import boot_time, trial_file
from edgegen.jobs.job import JobState
from edgegen.jobs.link import FrontError
from tests.support import PATIENCE_S, wait_for

from ..certificates import needs_openssl
from ..support import free_port
from .device import Box, engine_pid, jobs_in, watch_until


def test_limits_change_live_and_a_broken_file_keeps_the_old_ones(box):
    box.write("[limits]\nside = 512\n")
    box.start("--front-only")
    assert "512" in refusal(box, 600)
    box.write("[limits]\nside = 256\n[queue]\nmax_jobs = 7\n")
    box.hang_up()
    wait_for(lambda: box.says("configuration changed: limits.side"))
    assert "256" in refusal(box, 512)
    assert box.says("the daemon must start again for: queue.max_jobs")
    told = box.run("status").stdout
    assert "changed, but the daemon must start again for: queue.max_jobs" in told
    box.write("[limits]\nside = 0\n")
    box.hang_up()
    wait_for(lambda: box.says("stays as it was: limits.side: 0 is not allowed"))
    assert "256" in refusal(box, 512)
    told = box.run("status").stdout
    assert f"broken: limits.side: 0 is not allowed: 64 to 4096 ({box.config}:11)" in told
    assert "the daemon goes on with what it had before" in told
    assert box.stop() == 0


def refusal(box: Box, side: int) -> str:
    with pytest.raises(Exception, match="width") as caught:
        box.submit(width=side, height=side)
    return str(caught.value)


def test_the_engine_takes_over_between_two_jobs(box):
    box.write("[limits]\nsteps = 1000\n")
    box.start()
    watch_until(box, "running", "a", lambda: box.submit(id="a", steps=300))
    first = engine_pid(box)
    box.write("[limits]\nsteps = 500\n")
    box.hang_up()
    wait_for(lambda: box.says("retired between two jobs"), timeout_s=200)
    (job,) = jobs_in(box).values()
    assert (job.state, job.attempts) == (JobState.DONE, 1), "the job at hand was not interrupted"
    wait_for(lambda: engine_pid(box) not in (None, first))
    box.submit(id="b", steps=1)
    wait_for(lambda: jobs_in(box)["b"].state == JobState.DONE, timeout_s=200)
    assert box.stop() == 0


def test_mqtt_goes_on_and_off_live(box, broker):
    got: dict[str, bytes] = {}
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_message = lambda client, data, message: got.update({message.topic: message.payload})
    client.connect("127.0.0.1", broker.port)
    client.subscribe("edgegen/#", 1)
    client.loop_start()
    box.start("--front-only")
    box.write(f'[mqtt]\nenabled = true\nhost = "127.0.0.1"\nport = {broker.port}\n')
    box.hang_up()
    wait_for(lambda: got.get("edgegen/box/availability") == b"online")
    box.write()
    box.hang_up()
    wait_for(lambda: got["edgegen/box/availability"] == b"offline")
    client.loop_stop()
    assert box.stop() == 0


def test_a_broken_configuration_starts_in_safe_mode_and_leaves_it(box):
    box.write("[limits]\nside = 0\n[mqtt]\nenabled = true\nprot = 1\n")
    box.start("--front-only")
    assert box.says("safe mode: limits.side: 0 is not allowed: 64 to 4096")
    told = box.run("status")
    assert told.returncode == 0
    assert "running in safe mode" in told.stdout
    assert f"broken: limits.side: 0 is not allowed: 64 to 4096 ({box.config}:11)" in told.stdout
    assert f"mqtt.prot: unknown key; did you mean port? ({box.config}:14)" in told.stdout
    with pytest.raises(Exception, match="safe mode, no jobs are taken: limits"):
        box.submit()
    findings = json.loads(box.run("doctor", "--json").stdout)["checks"]
    daemon = next(check for check in findings if check["name"] == "daemon")
    assert daemon["state"] == "bad"
    assert "in safe mode: limits.side" in daemon["message"]
    box.hang_up()
    wait_for(lambda: box.log.read_text().count("safe mode: limits.side") == 2)
    box.write("[limits]\nside = 256\n")
    box.hang_up()
    wait_for(lambda: "safe_mode" not in status_or_nothing(box))
    assert box.submit(id="a")["state"] == "queued"
    assert box.stop() == 0


def status_or_nothing(box: Box) -> dict:
    """The socket goes away for a moment between the two modes."""
    try:
        return box.ask("status")
    except FrontError:
        return {"safe_mode": True}


def test_safe_mode_ends_when_asked(box):
    box.write("[limits]\nside = 0\n")
    box.start("--front-only")
    assert box.stop() == 0
    assert not (box.folder / "run/edgegen.sock").exists()


def let_trial_end(box: Box, began_with_s: float, left_s: float = 1.5) -> None:
    """The same trial with little time left: the daemon, told of it, finds out by itself when that is over."""
    told, now = json.loads(trial_file(box.config).read_text()), boot_time().seconds
    assert 0 < told["deadline_s"] - now < began_with_s
    trial_file(box.config).write_text(json.dumps({**told, "deadline_s": now + left_s}))
    assert not box.says("rolled back")
    box.hang_up()


def test_try_rolls_back_by_itself(box):
    box.write("[limits]\nside = 512\n")
    box.start("--front-only")
    before = box.config.read_bytes()
    tried = box.run("config", "try", "--timeout", "100", "limits.side=256")
    assert tried.returncode == 0, tried.stderr
    assert "make it permanent with: edgegen config confirm" in tried.stdout
    assert "256" in refusal(box, 512)
    assert "on trial for" in box.run("status").stdout
    refused = box.run("config", "set", "limits.side", "64")
    assert (refused.returncode, "a trial goes on" in refused.stderr) == (78, True)
    let_trial_end(box, 100)
    wait_for(lambda: box.says("was rolled back: its time was over"))
    assert "512" in refusal(box, 600)
    assert box.config.read_bytes() == before
    assert not trial_file(box.config).exists()
    late = box.run("config", "confirm")
    assert (late.returncode, "nothing to confirm" in late.stderr) == (78, True)


@pytest.mark.parametrize("ends_with", [signal.SIGHUP, signal.SIGKILL])
def test_try_rolls_back_when_the_connection_breaks(box, ends_with):
    """The shell dies while the checks still wait for a broker that never answers."""
    box.start("--front-only")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        words = (
            "config",
            "try",
            "mqtt.enabled=true",
            f"mqtt.port={port}",
            "limits.side=256",
        )
        command = [sys.executable, "-m", "edgegen", "--config", str(box.config), *words]
        shell = subprocess.Popen(command, env=box.environ, cwd=box.folder, start_new_session=True)
        wait_for(lambda: box.says("configuration changed: limits.side"), timeout_s=40)
        shell.send_signal(ends_with)
        assert shell.wait(PATIENCE_S) == -ends_with
    assert "256" in refusal(box, 512)
    let_trial_end(box, 120)
    wait_for(lambda: box.says("was rolled back: its time was over"))
    assert box.submit(id="a", width=512, height=512)["state"] == "queued"
    assert not box.ask("status")["config"]["trial_left_s"]


def test_try_and_confirm(box):
    box.start("--front-only")
    assert box.run("config", "try", "limits.side=256").returncode == 0
    confirmed = box.run("config", "confirm")
    assert (confirmed.returncode, confirmed.stdout) == (0, f"{box.config}: written\n")
    assert box.config.read_text().endswith("[limits]\nside = 256\n")
    assert "256" in refusal(box, 512)
    back = box.run("config", "rollback")
    assert back.returncode == 0, back.stderr
    assert "side" not in box.config.read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("mqtt.enabled=true mqtt.host=127.0.0.1 mqtt.port=1", "bad   broker"),
        ("engine.pack=none", "bad   pack"),
        ("engine.threads=2", "ok    step        one step of tiny ran"),
        ("queue.max_jobs=5", "ok    step        the engine's settings are as they were"),
    ],
)
def test_try_checks_the_health(box, change, said):
    tried = box.run("config", "try", *change.split())
    assert said in tried.stdout
    is_good = said.startswith("ok")
    assert tried.returncode == (0 if is_good else 1)
    assert trial_file(box.config).exists() == is_good
    assert is_good or "rolled back: a check failed" in tried.stderr
    assert ("must start again for: queue.max_jobs" in tried.stderr) == ("queue" in change)


def test_try_of_a_file_that_is_not_valid_tries_nothing(box):
    new = box.folder / "new.toml"
    new.write_text("[limits]\nside = 0\n")
    tried = box.run("config", "try", str(new))
    assert (tried.returncode, tried.stdout) == (78, "")
    assert f"limits.side: 0 is not allowed: 64 to 4096 ({new}:2)" in tried.stderr
    assert not trial_file(box.config).exists()


def test_a_trial_from_before_a_reboot_is_not_heeded_at_the_start(box):
    assert box.run("config", "try", "limits.side=256").returncode == 0
    told = json.loads(trial_file(box.config).read_text())
    trial_file(box.config).write_text(json.dumps({**told, "boot_id": "an earlier boot"}))
    box.start("--front-only")
    assert box.says("was rolled back: the machine was restarted")
    assert not trial_file(box.config).exists()
    assert box.run("config", "get", "limits.side").stdout == "1024\n"


@needs_openssl
def test_a_renewed_certificate_is_taken_over_without_losing_a_job(box, authority, make_broker, tmp_path):
    """The file's name stays; half a renewal changes nothing; jobs arrive all the while."""
    server, old, new = (
        authority.issue("reload-server", address="127.0.0.1"),
        authority.issue("box-of-2025"),
        authority.issue("box-of-2026"),
    )
    plain = free_port()
    broker = make_broker(
        f"cafile {authority.cert}\ncertfile {server.cert}\nkeyfile {server.key}\nlog_type all\n"
        f"require_certificate true\nuse_identity_as_username true\nlistener {plain} 127.0.0.1"
    )
    heard = (broker.folder / "mosquitto.log").read_text
    cert, key = box.folder / "box.pem", box.folder / "box.key"
    shutil.copy(old.cert, cert)
    shutil.copy(old.key, key)
    box.write(
        f'[mqtt]\nenabled = true\nhost = "127.0.0.1"\nport = {broker.port}\nhome_assistant = false\n'
        f'tls = true\nca_file = "{authority.cert}"\ncert_file = "{cert}"\nkey_file = "{key}"\n'
    )
    box.start()
    wait_for(lambda: "u'box-of-2025'" in heard())
    engine = wait_for(lambda: engine_pid(box))
    phone = paho.Client(paho.CallbackAPIVersion.VERSION2)
    said = []
    phone.on_message = lambda client, data, message: said.append(message.payload)
    phone.connect("127.0.0.1", plain)
    phone.subscribe("edgegen/box/availability", 1)
    phone.loop_start()
    wait_for(lambda: b"online" in said)
    sent = []

    def send(number: int) -> None:
        for _ in range(number):
            sent.append(f"r{len(sent)}")
            request = {"id": sent[-1], "prompt": "a red apple", "steps": 1, "width": 64, "height": 64}
            phone.publish("edgegen/box/generate", json.dumps(request), 1)

    send(5)
    shutil.copy(new.cert, cert)
    box.hang_up()
    wait_for(lambda: box.says(f"stays as it was: mqtt.key_file: {key} is not the key"))
    send(5)
    shutil.copy(new.key, key)
    box.hang_up()
    send(5)
    wait_for(lambda: "u'box-of-2026'" in heard())
    assert box.says("configuration changed: mqtt.cert_file, mqtt.key_file")
    send(5)
    wait_for(lambda: set(jobs_in(box)) == set(sent), timeout_s=60)
    wait_for(lambda: all(job.state == JobState.DONE for job in jobs_in(box).values()), timeout_s=100)
    assert engine_pid(box) == engine, "the engine keeps its graphs"
    phone.loop_stop()
    assert box.stop() == 0
