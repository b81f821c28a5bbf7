"""The supervisor with real, small processes in the engine's place."""

from __future__ import annotations

import json
import os
import signal
import sys

import pytest

from edgegen.jobs.supervisor import HUGE_PAGES, Supervisor, describe_exit, engine_environ
from tests.support import wait_for

WAITS_FOR_THE_END = "import sys; sys.stdin.read()"


@pytest.fixture
def deaths() -> list:
    return []


@pytest.fixture
def start(deaths):
    started = []

    def start(code: str, **options) -> Supervisor:
        options = {"step_timeout_s": 600, "backoff_s": (0.01, 0.05), **options}
        supervisor = Supervisor('{"x": 1}', deaths.append, command=(sys.executable, "-c", code), **options)
        supervisor.start()
        started.append(supervisor)
        return supervisor

    yield start
    for supervisor in started:
        supervisor.close()


def test_it_starts_again_after_every_death(start, deaths):
    supervisor = start("import sys; sys.exit(3)")
    wait_for(lambda: len(deaths) >= 3)
    supervisor.close()
    assert (deaths[0].reason, deaths[0].is_blamed) == ("ended with exit code 3", True)


def test_a_killed_engine(start, deaths):
    supervisor = start(WAITS_FOR_THE_END)
    first = wait_for(lambda: supervisor.pid)
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: supervisor.pid not in (None, first))
    assert deaths[0].reason == "was killed (SIGKILL: out of memory?)"


def test_a_hung_step_is_killed(start, deaths):
    supervisor = start(WAITS_FOR_THE_END, step_timeout_s=0.2)
    pid = wait_for(lambda: supervisor.pid)
    supervisor.note({"type": "step", "pid": -1})  # another process's
    supervisor.note({"type": "claimed", "pid": pid})
    wait_for(lambda: deaths)
    assert (deaths[0].reason, deaths[0].is_blamed) == ("hung: a step took longer than 0.2 s", True)


def test_an_idle_engine_may_be_silent(start, deaths):
    supervisor = start(WAITS_FOR_THE_END, step_timeout_s=0.05)
    pid = wait_for(lambda: supervisor.pid)
    supervisor.note({"type": "claimed", "pid": pid})
    supervisor.note({"type": "done", "pid": pid})
    os.kill(pid, signal.SIGUSR1)
    wait_for(lambda: deaths)
    assert deaths[0].reason == "died of SIGUSR1"


def test_stopping_is_not_the_jobs_fault(start, deaths):
    supervisor = start(WAITS_FOR_THE_END)
    wait_for(lambda: supervisor.pid)
    supervisor.close()
    supervisor.close()
    assert [(death.reason, death.is_blamed) for death in deaths] == [("was stopped", False)]
    assert supervisor.pid is None


def test_an_engine_that_will_not_stop_is_killed(start, deaths, tmp_path):
    ready = tmp_path / "ready"
    code = (
        f"import signal, time; signal.signal(15, signal.SIG_IGN); open({str(ready)!r}, 'w'); time.sleep(600)"
    )
    supervisor = start(code, stop_timeout_s=0.2)
    wait_for(ready.exists)
    supervisor.close()
    assert [death.is_blamed for death in deaths] == [False]
    assert supervisor.pid is None


def test_the_settings_arrive_on_standard_input(start, tmp_path):
    out = tmp_path / "out"
    start(f"import sys; open({str(out)!r}, 'w').write(sys.stdin.readline()); sys.stdin.read()")
    wait_for(lambda: out.exists() and out.read_text() == '{"x": 1}\n')


def test_the_engine_s_environment(start, tmp_path, monkeypatch):
    """The front's, but for what systemd gave that one alone; memory in huge pages unless told otherwise."""
    told = tmp_path / "environ"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/front")
    monkeypatch.setenv("EDGEGEN_NODE__NAME", "kiosk")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    start(
        "import json, os, pathlib; part = pathlib.Path('part'); part.write_text(json.dumps(dict(os.environ)))"
        f"; part.replace({str(told)!r})"
    )
    wait_for(told.exists)
    environ = json.loads(told.read_text())
    assert (environ["EDGEGEN_NODE__NAME"], environ["GLIBC_TUNABLES"]) == ("kiosk", HUGE_PAGES)
    assert "NOTIFY_SOCKET" not in environ
    assert engine_environ({"GLIBC_TUNABLES": "x=1"})["GLIBC_TUNABLES"] == "x=1"


def test_an_engine_that_cannot_start(deaths):
    supervisor = Supervisor("{}", deaths.append, 600, command=("/nowhere/python",), backoff_s=(0.01, 0.01))
    supervisor.start()
    wait_for(lambda: len(deaths) >= 2)
    supervisor.close()
    assert "could not be started" in deaths[0].reason


def test_exit_codes_in_words():
    assert describe_exit(-signal.SIGSEGV) == "died of SIGSEGV"
    assert describe_exit(-99) == "died of signal 99"
