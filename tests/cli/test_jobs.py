"""`edgegen status`, `queue` and `cancel`, straight in the database and through a real hub."""

import json
import os
import re

import pytest

from edgegen.cli import access
from edgegen.cli import jobs as jobs_module
from edgegen.config.files import database_path, load_settings, socket_path
from edgegen.errors import BadRequest, StorageError
from edgegen.jobs.hub import Hub
from edgegen.jobs.job import JobRequest, JobState, parse_request
from edgegen.jobs.link import ShellLink
from edgegen.jobs.queue import JobQueue
from edgegen.jobs.service import JobService
from edgegen.jobs.shell import describe_job
from edgegen.settings import LimitSettings


@pytest.fixture
def queue(device):
    """The device's queue, as the daemon or the engine opens it."""
    queue = JobQueue(database_path(load_settings(device.config).node))
    yield queue
    queue.close()


@pytest.fixture(params=["database", "daemon"])
def source(request, device):
    """Every test with this runs without a daemon, and with a front's hub on the device's socket."""
    if request.param == "database":
        yield request.param
        return
    node = load_settings(device.config).node
    queue = JobQueue(database_path(node))
    service = JobService(queue)

    def submit(data):
        asked = parse_request(data, LimitSettings(), source="cli", new_id=lambda: "unnamed")
        return {"job": describe_job(service.submit(asked))}

    hub = Hub(socket_path(node), service, submit)
    hub.start()
    yield request.param
    hub.close()
    queue.close()


def told(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_looking_at_a_fresh_device_changes_nothing(device):
    assert told(device.run("status", "--json"))["jobs"]["queued"] == 0
    assert told(device.run("queue", "--json"))["jobs"] == []
    assert "no jobs" in device.run("queue").stderr
    assert not (device.home / "data").exists()


def test_a_job_added_is_listed_with_its_options(device, source):
    options = {"seed": 7, "guidance": 2.5, "negative": "blur", "steps": 3, "sampler": "ddim", "priority": 5}
    options["schedule"] = "karras"
    args = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    added = told(device.run("queue", "add", "a red apple", *args, "--size", "64x32", "--json"))
    job = added["job"]
    assert (added["source"], job["place"], job["state"]) == (source, 1, "queued")
    [listed] = told(device.run("queue", "--json"))["jobs"]
    options["negative_prompt"] = options.pop("negative")
    expected = {"prompt": "a red apple", "id": job["id"], "place": 1, "width": 64, "height": 32, **options}
    assert {key: listed[key] for key in expected} == expected


def test_add_prints_the_id_alone_on_stdout(device, source):
    result = device.run("queue", "add", "a red apple")
    assert re.fullmatch(r"[0-9a-f]{16}\n", result.stdout)
    assert ("until the daemon runs" in result.stderr) == (source == "database")
    assert "a red apple" in device.run("queue").stdout


def test_add_reads_stdin(device):
    assert device.run("queue", "add", "-", stdin=" a cat\n").exit_code == 0
    assert [job["prompt"] for job in told(device.run("queue", "--json"))["jobs"]] == ["a cat"]


def test_the_same_id_again_adds_nothing(device, source):
    for prompt in ("a red apple", "a blue apple"):
        assert device.run("queue", "add", prompt, "--id", "one").stdout == "one\n"
    assert [job["prompt"] for job in told(device.run("queue", "--json"))["jobs"]] == ["a red apple"]


def test_every_problem_of_a_request_at_once(device, source):
    result = device.run("queue", "add", " ", "--steps", "0", "--sampler", "eular", "--size", "20000x64")
    assert result.exit_code == BadRequest.exit_code
    lines = result.stderr.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["prompt", "sampler", "steps", "width"]
    assert "did you mean euler?" in result.stderr
    assert "1 to 100" in result.stderr


@pytest.mark.parametrize("size", ["64", "64x", "axb", "-64x64", "64x64x64", "٣x٣"])
def test_sizes_that_are_none(device, size):
    result = device.run("queue", "add", "a cat", "--size", size)
    assert result.exit_code == BadRequest.exit_code
    assert result.stderr.startswith("edgegen: size: ")


@pytest.mark.parametrize("data", [b"\xff\xfe", b"x" * 1_000_001])
def test_stdin_that_is_no_prompt(device, data):
    result = device.run("queue", "add", "-", stdin=data)
    assert result.exit_code == BadRequest.exit_code
    assert len(result.stderr.splitlines()) == 1


def test_order_and_places(device, queue):
    for prompt, priority in (("first", 0), ("second", 0), ("urgent", 9)):
        device.run("queue", "add", prompt, "--priority", str(priority))
    jobs = told(device.run("queue", "--json"))["jobs"]
    assert [(job["prompt"], job["place"]) for job in jobs] == [("urgent", 1), ("first", 2), ("second", 3)]
    queue.claim()
    jobs = told(device.run("queue", "--json"))["jobs"]
    assert [(job["prompt"], job["place"]) for job in jobs] == [("urgent", None), ("first", 1), ("second", 2)]
    assert [job["prompt"] for job in told(device.run("status", "--json"))["running"]] == ["urgent"]


def test_all_shows_finished_jobs_with_their_result(device, queue):
    device.run("queue", "add", "a red apple", "--id", "one")
    job = queue.claim()
    queue.finish(job, picture="20260101-000001-one.png", seed=3, seconds=1.5)
    device.run("queue", "add", "a rocket", "--id", "two")
    queue.fail(queue.claim(), "engine_failed", "it broke")
    assert "no jobs" in device.run("queue").stderr
    shown = device.run("queue", "--all").stdout
    assert "20260101-000001-one.png" in shown
    assert "it broke" in shown
    jobs = {job["id"]: job for job in told(device.run("queue", "--all", "--json"))["jobs"]}
    assert (jobs["one"]["state"], jobs["one"]["seconds"]) == ("done", 1.5)
    assert jobs["two"]["code"] == "engine_failed"


def test_a_hostile_prompt_cannot_move_the_cursor(device, queue):
    queue.enqueue(
        parse_request(
            {"prompt": "a\u202ered\u0085apple", "id": "x"}, LimitSettings(), source="mqtt", new_id=str
        )
    )
    shown = device.run("queue").stdout
    assert "\u202e" not in shown
    assert len(shown.splitlines()) == 2


def test_cancel_by_id_prefix_and_all(device, source, queue):
    for job_id in ("abcd-1", "abcd-2", "efgh-1", "efgh-2"):
        device.run("queue", "add", "a cat", "--id", job_id)
    running = queue.claim()
    assert device.run("cancel", "abcd-2").stdout == "abcd-2  cancelled\n"
    assert device.run("cancel", "abcd").stdout == "abcd-1  stopping\n"
    assert queue.is_cancel_asked(running)
    ambiguous = device.run("cancel", "efgh")
    assert ambiguous.exit_code == BadRequest.exit_code
    assert "efgh-1, efgh-2" in ambiguous.stderr
    assert device.run("cancel", "--all").exit_code == 0
    assert queue.list(JobState.QUEUED) == []


def test_an_unknown_id_does_not_keep_the_others(device, source):
    device.run("queue", "add", "a cat", "--id", "known")
    result = device.run("cancel", "nobody", "known")
    assert result.exit_code == 2
    assert result.stdout == "known  cancelled\n"
    assert "nobody" in result.stderr


def test_cancel_on_a_fresh_device(device):
    assert "no jobs yet" in device.run("cancel", "abc").stderr
    assert device.run("cancel", "--all").exit_code == 0
    assert not (device.home / "data").exists()


def test_status_says_where_it_looked(device, source):
    device.run("queue", "add", "a cat")
    status = told(device.run("status", "--json"))
    assert status["source"] == source
    assert status["jobs"]["queued"] == 1
    shown = device.run("status").stdout
    assert ("not running" in shown) == (source == "database")
    assert "1 queued" in shown


def test_a_database_that_cannot_be_opened(device):
    (device.home / "data").write_text("a file where a folder should be")
    result = device.run("queue", "add", "a cat")
    assert result.exit_code == StorageError.exit_code
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0 s"), (59, "59 s"), (60, "1 min"), (7300, "2 h"), (200_000, "2 d")]
)
def test_age(seconds, text):
    assert jobs_module.age(seconds) == text


@pytest.fixture
def units_daemon(device, monkeypatch):
    """What systemd started: its socket is where the units have it, its data where this shell cannot look."""
    folder = device.run_dir / "units"
    folder.mkdir()
    monkeypatch.setattr(access, "UNITS_SOCKET", folder / "edgegen.sock")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    device.config.write_text(f'[node]\ndata_dir = "{device.home}/data"\n')
    queue = JobQueue(device.home / "elsewhere.db")
    service = JobService(queue)

    def submit(data):
        asked = parse_request(data, LimitSettings(), source="cli", new_id=lambda: "unnamed")
        return {"job": describe_job(service.submit(asked))}

    hub = Hub(access.UNITS_SOCKET, service, submit)
    hub.start()
    yield queue
    hub.close()
    queue.close()


def test_an_operator_asks_the_daemon_that_systemd_started(device, units_daemon):
    for name in ("first-1", "second-2"):
        added = device.run("queue", "add", f"a {name}", "--id", name)
        assert added.exit_code == 0, added.stderr
    assert "place 2" in added.stderr
    units_daemon.fail(units_daemon.claim(), "engine_failed", "it broke")
    listed = told(device.run("queue", "--all", "--json"))
    assert [(job["id"], job["state"], job["place"]) for job in listed["jobs"]] == [
        ("second-2", "queued", 1),
        ("first-1", "failed", None),
    ]
    assert "it broke" in device.run("queue", "--all").stdout
    status = told(device.run("status", "--json"))
    assert (status["source"], status["database"], status["jobs"]["failed"]) == ("daemon", None, 1)
    assert device.run("cancel", "seco").stdout == "second-2  cancelled\n"
    unknown = device.run("cancel", "nobody")
    assert (unknown.exit_code, "nobody" in unknown.stderr) == (2, True)
    assert not (device.home / "data").exists(), "looking makes no database of one's own"


def test_who_is_not_in_the_group_is_told_so(device, units_daemon, monkeypatch):
    """Root passes every check of permissions, so the kernel's answer for others is put in its mouth."""
    really, folder = os.access, access.UNITS_SOCKET.parent
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder and really(path, mode))
    result = device.run("status")
    assert "sudo usermod -aG" in result.stdout


def test_a_long_list_of_jobs_is_cut_where_an_answer_ends(units_daemon):
    service = JobService(units_daemon)
    for number in range(60):
        service.submit(JobRequest(str(number), "x" * 9000))
    with ShellLink(access.UNITS_SOCKET) as link:
        jobs = link.ask("jobs")["jobs"]
        assert 15 < len(jobs) < 30
        assert jobs[0]["id"] == "0"
        with pytest.raises(BadRequest, match="states must be"):
            link.ask("jobs", states=["lost"])
        with pytest.raises(BadRequest, match="limit must be"):
            link.ask("jobs", limit=-1)
