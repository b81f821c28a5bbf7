"""Builds that are cut off go on, and make the same pack."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgegen.errors import StorageError
from quantize.work import Work, source_digest, work_folder

ROOT = Path(__file__).parents[2]

# Builds in children of one process that has imported torch: each a real process, killed by a real SIGKILL
# as soon as a step's note is on the disk.
BUILDS = """
import json, os, signal, sys
from pathlib import Path
from quantize.build import BuildOptions, build_pack
from quantize.work import Work

source, folder = Path(sys.argv[1]), Path(sys.argv[2])
options = BuildOptions(calibration_prompts=["a red apple", "a cat"], evaluate=False, name="tiny")

def build(out, steps_before_the_kill):
    made, real = [0], Work.step
    def step(self, name, inputs, outputs, make):
        def counted():
            made[0] += 1
            print(out.name, name, flush=True)
            return make()
        result = real(self, name, inputs, outputs, counted)
        if made[0] == steps_before_the_kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    Work.step = step
    build_pack(source, out, options)

def child(*args):
    pid = os.fork()
    if pid == 0:
        try:
            build(*args)
            os._exit(0)
        except BaseException as err:
            print("failed", repr(err), flush=True)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

print("whole", child(folder / "whole", 0), flush=True)
for _ in range(20):
    code = child(folder / "cut", 1)
    print("cut", code, (folder / "cut").exists(), flush=True)
    if code == 0:
        break
"""


@pytest.mark.timeout(600)
def test_a_build_killed_at_every_step_goes_on_to_the_same_pack(checkpoint: Path, tmp_path: Path):
    command = [sys.executable, "-W", "ignore", "-c", BUILDS, str(checkpoint), str(tmp_path)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environ, timeout=580)
    said = done.stdout.splitlines()
    assert "whole 0" in said, done.stdout + done.stderr
    steps = [line.removeprefix("whole ") for line in said if line.startswith("whole ") and line != "whole 0"]
    assert len(steps) == 7, "three exports, recording, three graphs"
    cuts = [line for line in said if line in ("cut -9 False", "cut 0 True")]
    assert cuts == ["cut -9 False"] * 7 + ["cut 0 True"], "nothing stands at the output before the end"
    assert [line for line in said if line.startswith("cut ") and line not in cuts] == [
        f"cut {step}" for step in steps
    ], "every step was made once, in order"
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "whole"]


def contents(pack: Path) -> dict[str, bytes]:
    return {str(p.relative_to(pack)): p.read_bytes() for p in sorted(pack.rglob("*")) if p.is_file()}


def run_step(work: Work, name: str, inputs: object, text: str) -> tuple[str, bool]:
    """(result, whether it was made now) of a step that writes one file."""
    path, made = work.folder / f"{name}.txt", []

    def make() -> str:
        path.write_text(text)
        made.append(name)
        return text

    return work.step(name, inputs, [path], make), bool(made)


def test_a_changed_option_makes_its_step_and_those_after_it_anew(tmp_path: Path):
    assert run_step(Work(tmp_path), "a", 1, "first") == ("first", True)
    for b, is_new in ((1, True), (1, False), (2, True)):
        work = Work(tmp_path)
        assert run_step(work, "a", 1, "first") == ("first", False)
        assert run_step(work, "b", b, "second") == ("second", is_new)
    work = Work(tmp_path)
    assert run_step(work, "a", 2, "other") == ("other", True)
    assert run_step(work, "b", 2, "second") == ("second", True)


def test_what_takes_long_to_tell_is_asked_before_a_step_only_where_it_may_be_finished(tmp_path: Path):
    asked: list[str] = []

    def step(value: int) -> str:
        def inputs() -> int:
            asked.append("asked")
            return value

        def make() -> str:
            asked.append("made")
            return "x"

        return Work(tmp_path).step("a", inputs, [], make)

    for value, order in ((1, ["made", "asked"]), (1, ["asked"]), (2, ["asked", "made", "asked"])):
        asked.clear()
        assert step(value) == "x"
        assert asked == order


def test_a_step_whose_files_or_note_are_gone_is_made_again(tmp_path: Path):
    run_step(Work(tmp_path), "a", 1, "x")
    (tmp_path / "a.txt").unlink()
    assert run_step(Work(tmp_path), "a", 1, "x") == ("x", True)
    (tmp_path / "steps" / "a.json").write_text('{"key": "')
    assert run_step(Work(tmp_path), "a", 1, "x") == ("x", True)


def test_a_step_that_fails_leaves_no_note(tmp_path: Path):
    with pytest.raises(ZeroDivisionError):
        Work(tmp_path).step("a", 1, [tmp_path / "half"], lambda: 1 / 0)
    assert not Work(tmp_path).has_finished_steps


def test_a_failed_build_keeps_finished_steps_and_an_old_pack_whole(tmp_path: Path):
    old = tmp_path / "pack"
    old.mkdir()
    (old / "pack.json").write_text("old")
    with pytest.raises(RuntimeError), work_folder(old, force=True) as work:
        run_step(work, "a", 1, "x")
        raise RuntimeError
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pack", "pack.work"]
    assert (old / "pack.json").read_text() == "old"
    with work_folder(old, force=True) as work:
        assert run_step(work, "a", 1, "x") == ("x", False)
        (work.folder / "pack" / "new.txt").write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["pack"]
    assert [p.name for p in old.iterdir()] == ["new.txt"]


def test_fresh_takes_nothing_over(tmp_path: Path):
    with pytest.raises(RuntimeError), work_folder(tmp_path / "pack") as work:
        run_step(work, "a", 1, "x")
        raise RuntimeError
    with work_folder(tmp_path / "pack", fresh=True) as work:
        assert run_step(work, "a", 1, "x") == ("x", True)


def test_a_build_that_finished_nothing_leaves_nothing(tmp_path: Path):
    with pytest.raises(RuntimeError), work_folder(tmp_path / "pack"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_two_builds_of_one_pack_do_not_meet(tmp_path: Path):
    with (
        work_folder(tmp_path / "pack"),
        pytest.raises(StorageError, match="built by another process"),
        work_folder(tmp_path / "pack"),
    ):
        pass


def test_the_digest_tells_contents_and_names_apart(tmp_path: Path):
    (tmp_path / "unet").mkdir()
    weights = tmp_path / "unet" / "model.safetensors"
    weights.write_bytes(b"x" * 100)
    first, stat = source_digest(tmp_path), weights.stat()
    assert source_digest(tmp_path) == first
    (tmp_path / "unet" / "model.bin").write_bytes(b"never read")
    assert source_digest(tmp_path) == first
    weights.write_bytes(b"x" * 99 + b"y")
    os.utime(weights, (stat.st_atime, stat.st_mtime))
    assert source_digest(tmp_path) != first, "one byte, the same size and time"
    assert source_digest(weights) != source_digest(tmp_path)


def test_a_signal_in_a_real_build_leaves_the_work_and_no_pack(checkpoint: Path, tmp_path: Path):
    command = [sys.executable, "-m", "quantize", str(checkpoint), "-o", str(tmp_path / "pack"), "--json"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        for line in process.stdout:
            event = json.loads(line)
            if (event.get("stage"), event.get("state")) == ("record", "begun"):
                break
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=120)[1]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "goes on from the last finished step" in errors
    assert [p.name for p in tmp_path.iterdir()] == ["pack.work"]


def test_a_source_of_links_is_read_through_them(tmp_path: Path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs/model.safetensors").write_bytes(b"one")
    linked = tmp_path / "checkpoint"
    linked.mkdir()
    (linked / "unet").symlink_to(tmp_path / "blobs")
    first = source_digest(linked)
    (tmp_path / "blobs/model.safetensors").write_bytes(b"two")
    assert source_digest(linked) != first
