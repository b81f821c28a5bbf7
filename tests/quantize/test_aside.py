"""A build's second process: what it finds and what goes wrong arrives, and it never outlives the first."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgegen.errors import EngineError
from quantize import runner
from quantize.aside import Aside, can_be_made
from quantize.work import Work

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks do not end with us there")


@pytest.fixture
def aside() -> Iterator[Aside]:
    with contextlib.closing(Aside()) as made:
        yield made


def failing(error: type[Exception]) -> None:
    raise error("as told")


def test_results_come_in_any_order_from_one_other_process(aside: Aside) -> None:
    first, pid, threads = (
        aside.begin(w) for w in (functools.partial(sum, [1, 2]), os.getpid, default_threads)
    )
    assert pid() not in (os.getpid(), 0)
    assert threads() == 1
    assert runner.DEFAULT_THREADS == 0, "this process keeps its own"
    assert first() == 3


def default_threads() -> int:
    return runner.DEFAULT_THREADS


def test_errors_are_raised_where_the_result_is_asked_for(aside: Aside) -> None:
    known, unknown = (aside.begin(functools.partial(failing, e)) for e in (EngineError, ZeroDivisionError))
    after = aside.begin(os.getpid)
    with pytest.raises(EngineError, match=r"^as told$"):
        known()
    with pytest.raises(RuntimeError, match=r"(?s)second process.*in failing.*ZeroDivisionError: as told"):
        unknown()
    assert after() > 0


def test_a_second_process_that_dies_is_told(aside: Aside) -> None:
    with pytest.raises(EngineError, match=r"second process ended with -9 \(out of memory\?\)"):
        aside.begin(functools.partial(os.kill, aside.begin(os.getpid)(), 9))()


def test_it_is_gone_when_it_is_closed_whatever_it_does() -> None:
    aside = Aside()
    pid = aside.begin(os.getpid)()
    aside.begin(functools.partial(time.sleep, 600))
    aside.close()
    aside.close()
    assert not Path(f"/proc/{pid}").exists()


KILLED = """
import os, time, functools
from quantize.aside import Aside
aside = Aside()
print(aside.begin(os.getpid)(), flush=True)
aside.begin(functools.partial(time.sleep, 600))
os.kill(os.getpid(), 9)
"""


def test_it_ends_with_a_build_that_is_killed() -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    other, deadline = Path(f"/proc/{int(done.stdout)}"), time.monotonic() + 30
    while other.exists() and "zombie" not in state(other) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not other.exists() or "zombie" in state(other)


def state(process: Path) -> str:
    with contextlib.suppress(OSError):
        return (process / "status").read_text()
    return "zombie"


def test_a_step_begun_before_its_turn_keeps_what_was_made(tmp_path: Path) -> None:
    work, made = Work(tmp_path), tmp_path / "a.txt"
    made.write_text("half of it, of a build that was cut off")
    assert work.clear_ahead("a", [made])
    assert not made.exists()
    made.write_text("begun")
    assert work.step("a", 1, [made], lambda: 7) == 7
    assert made.read_text() == "begun"
    assert not Work(tmp_path).clear_ahead("a", [made]), "it may be finished: its turn will tell"
    assert made.exists()


@pytest.mark.skipif(not can_be_made(), reason="one core")
def test_the_command_makes_small_graphs_beside_and_the_same_pack(
    checkpoint: Path, prompts: Path, tmp_path: Path
) -> None:
    """By two processes and by one: the same bytes, but for what was measured."""
    words = ["--calibration-prompts", str(prompts), "--no-evaluate", "--name", "tiny"]
    for name, start in (("two", "main()"), ("one", "cli.main(standalone_mode=False)")):
        code = f"import sys; from quantize.cli import cli, main; sys.argv[0] = 'quantize'; {start}"
        command = [sys.executable, "-c", code, str(checkpoint), "-o", str(tmp_path / name), *words, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        turns = [row["stage"] for row in rows if row.get("state") == "done"]
        assert turns[1:4] == ["export unet", "export text_encoder", "export vae_decoder"]
    one, two = (
        {p.name + p.parent.name: p.read_bytes() for p in graphs(tmp_path / n)} for n in ("one", "two")
    )
    assert one == two
    assert len(one) >= 6


def graphs(pack: Path) -> list[Path]:
    return [path for path in sorted(pack.rglob("*")) if path.suffix in (".onnx", ".data")]
