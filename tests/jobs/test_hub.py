"""The control socket with real connections: engines, shells, and peers that misbehave."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from edgegen.errors import BadRequest, QueueFull, StorageError
from edgegen.jobs.hub import MAX_PEERS, Hub
from edgegen.jobs.job import parse_request
from edgegen.jobs.link import EngineLink, FrontError, ShellLink
from edgegen.jobs.service import JobService
from edgegen.jobs.shell import describe_job
from edgegen.jobs.wire import MAX_LINE
from edgegen.settings import LimitSettings
from tests.support import PATIENCE_S, wait_for

from .conftest import request


@pytest.fixture
def service(queue):
    return JobService(queue)


@pytest.fixture
def engine_said() -> list:
    return []


@pytest.fixture
def hub(socket_path, service, engine_said):
    def submit(asked):
        job = service.submit(parse_request(asked, LimitSettings(), source="cli", new_id=lambda: "given"))
        return {"job": describe_job(job)}

    hub = Hub(socket_path, service, submit, engine_said.append)
    hub.start()
    yield hub
    hub.close()


def raw(path: Path, *lines: bytes) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE_S)
    connection.connect(str(path))
    for line in lines:
        connection.sendall(line)
    return connection


def is_dropped(connection: socket.socket) -> bool:
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


def test_a_shell_asks(hub, socket_path, service):
    with ShellLink(socket_path) as shell:
        assert shell.ask("submit", request={"prompt": "a red apple"})["job"]["id"] == "given"
        status = shell.ask("status")
        assert (status["jobs"]["queued"], status["engine"]) == (1, False)
        assert shell.ask("cancel", id="given")["job"]["state"] == "cancelled"
        with pytest.raises(BadRequest, match="'nobody'") as caught:
            shell.ask("cancel", id="nobody")
        assert caught.value.code == "unknown_job"
        with pytest.raises(BadRequest, match="did you mean steps"):
            shell.ask("submit", request={"prompt": "x", "stepz": 5})
        with pytest.raises(BadRequest, match="submit needs a request"):
            shell.ask("submit", request="x")
        with pytest.raises(BadRequest, match="'dance' is no question"):
            shell.ask("dance")
        assert shell.ask("status")["jobs"]["cancelled"] == 1


def test_a_full_queue_is_an_answer(hub, socket_path, service):
    for number in range(5):
        service.submit(request(f"{number}"))
    with ShellLink(socket_path) as shell, pytest.raises(BadRequest) as caught:
        shell.ask("submit", request={"prompt": "x"})
    assert caught.value.code == QueueFull.code


def test_watching(hub, socket_path, service):
    with ShellLink(socket_path) as shell:
        events = shell.watch()
        service.submit(request("a"))
        event = next(events)
        assert (event["kind"], event["job"]["prompt"], event["place"]) == ("queued", "a red apple", 1)


def test_an_engine_reports_and_is_woken(hub, socket_path, service, engine_said):
    heard: list = []
    link = EngineLink(socket_path, heard.append)
    link.start()
    wait_for(lambda: {"type": "connected", "pid": os.getpid()} in engine_said)
    wait_for(lambda: link.is_connected)
    assert hub.has_engine
    service.submit(request("a"))
    wait_for(lambda: {"type": "wake"} in heard)
    assert link.send({"type": "step", "id": "a", "step": 1, "steps": 4})
    wait_for(
        lambda: engine_said[-1] == {"type": "step", "id": "a", "step": 1, "steps": 4, "pid": os.getpid()}
    )
    hub.stop_engine()
    wait_for(lambda: {"type": "stop"} in heard)
    link.close()
    link.close()
    wait_for(lambda: engine_said[-1] == {"type": "disconnected", "pid": os.getpid()})
    assert not link.send({"type": "idle"})


def test_the_engine_finds_a_front_that_comes_back(socket_path, service):
    link = EngineLink(socket_path, lambda message: None)
    link.start()
    assert not link.send({"type": "idle"})
    for _ in range(2):
        said: list = []
        hub = Hub(socket_path, service, lambda asked: asked, said.append)
        hub.start()
        wait_for(lambda said=said: said)
        hub.close()
        wait_for(lambda: not link.is_connected)
    link.close()


@pytest.mark.parametrize(
    "bad",
    [
        b"no json\n",
        b"[1, 2]\n",
        b'{"role": "shell"}\n',
        b'{"type": "hello", "role": "king", "pid": 1}\n',
        b'{"type": "hello", "role": "shell"}\n',
        b'{"type": "status"}\n',
        b"[" * 100_000 + b"\n",
        b"x" * (MAX_LINE + 1),
        b"\xff\xfe\n",
    ],
)
def test_a_peer_that_misbehaves_is_dropped_alone(hub, socket_path, bad):
    with ShellLink(socket_path) as good:
        assert is_dropped(raw(socket_path, bad))
        assert good.ask("status")["type"] == "status"


def test_previews_go_to_those_who_asked_for_them(hub, socket_path, service, queue):
    """The others, and a display whose settings are read again, hear what is theirs."""
    with ShellLink(socket_path) as shell, ShellLink(socket_path, role="display") as display:
        assert shell.ask("status")["display"] is True
        seen, shown = shell.watch(), display.watch(previews=True)
        service.submit(request("one"))
        queue.claim()
        service.report_step("one", 1, 4)
        service.report_preview("one", b"\xff\xd8\xff jpeg")
        hub.tell_config()
        service.report_step("one", 2, 4)
        assert [next(seen).get("step") for _ in range(3)] == [None, 1, 2]
        told = [next(shown) for _ in range(5)]
        assert [message["type"] for message in told] == ["event", "event", "preview", "config", "event"]
        assert told[2] == {"type": "preview", "id": "one", "jpeg": "/9j/IGpwZWc="}


def test_a_watch_is_ended_by_another_thread(hub, socket_path):
    link = ShellLink(socket_path, role="display")
    events = link.watch()
    threading.Timer(0.1, link.hang_up).start()
    with pytest.raises(FrontError):
        next(events)
    link.close()
    wait_for(lambda: not hub.has_display)


def test_a_watcher_that_does_not_read_is_dropped(hub, socket_path, service):
    hello = json.dumps({"type": "hello", "role": "shell", "pid": 1}).encode() + b"\n"
    lazy = raw(socket_path, hello, b'{"type": "watch"}\n')
    lazy.recv(1)
    with ShellLink(socket_path) as shell:
        for number in range(3000):
            service.submit(request(f"{number % 5}", prompt="x" * 1000))
            hub._call(
                lambda: hub._send_if({"type": "event", "filler": "x" * 5000}, lambda peer: peer.watches)
            )
        wait_for(lambda: not any(peer.watches for peer in tuple(hub._peers.values())))
        assert shell.ask("status")["jobs"]["queued"] == 5
    lazy.close()


def test_silent_peers_make_room(hub, socket_path):
    silent = [raw(socket_path) for _ in range(MAX_PEERS)]
    with ShellLink(socket_path) as shell:
        assert shell.ask("status")
    for connection in silent:
        connection.close()


def test_the_socket_is_for_owner_and_group(hub, socket_path):
    assert stat.S_IMODE(socket_path.stat().st_mode) == 0o660


def test_a_second_front_is_refused_and_a_dead_one_replaced(hub, socket_path, service):
    second = Hub(socket_path, service, lambda asked: asked)
    with pytest.raises(StorageError, match="another `edgegen run` serves it"):
        second.start()
    hub.close()
    hub.close()
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(socket_path))
    dead.close()
    second.start()
    with ShellLink(socket_path) as shell:
        assert shell.ask("status")
    second.close()
    assert not socket_path.exists()


def test_without_a_front(socket_path):
    with pytest.raises(FrontError, match="no front is running here"):
        ShellLink(socket_path)
    socket_path.with_name("file").write_text("x")
    with pytest.raises(FrontError):
        ShellLink(socket_path.with_name("file"))


def test_a_socket_that_cannot_be_made(tmp_path, service):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="control socket cannot be made"):
        Hub(tmp_path / "file" / "edgegen.sock", service, lambda asked: asked).start()
