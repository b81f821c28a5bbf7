"""A disk that fills under load and one that is read-only at the start; both recover."""

from __future__ import annotations

import contextlib
import random
import subprocess
from pathlib import Path

from tests.support import small_disk

from .rig import Rig, make_rig, pause
from .tally import Row


def fill(folder: Path) -> Path:
    """Take every free byte."""
    path = folder / "filler"
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        for size in (65536, 512):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)
    return path


def run_full(seed: int, jobs: int = 100, fills: int = 8, megabytes: int = 16) -> Row:
    """A job that meets the full disk is told why; none may vanish."""
    rng = random.Random(seed)
    with make_rig() as (rig, _broker), small_disk(rig.data, megabytes):
        rig.start()
        rig.wait_online()
        share = -(-jobs // (fills + 1))
        for first in range(0, jobs, share):
            filler = fill(rig.data)
            rig.crashes += 1
            for number in range(first, min(jobs, first + share)):
                rig.sender.send(f"d{number}", steps=rng.randint(1, 4))
            pause(rng, 0.0, 2.0)
            filler.unlink()
            rig.revive_dead()
            pause(rng, 0.0, 1.0)
        rig.wait_ends(ask_every_s=40)
        row = rig.row("disk full", seed)
        rig.close()
        return row


def remount(folder: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True, capture_output=True)


def run_read_only(seed: int, jobs: int = 20) -> Row:
    """The device says why it cannot start, and goes on when the disk can be written again."""
    with make_rig() as (rig, _broker), small_disk(rig.data, 32):
        rig.start("front")
        rig.wait_online()
        for number in range(jobs):
            rig.sender.send(f"r{number}")
        wait_accepted(rig, jobs)
        rig.kill("front")
        remount(rig.data, "ro")
        try:
            rig.start("front")
            code = rig.exit_code("front")
        finally:
            remount(rig.data, "rw")
        assert code not in (0, None), "a front that cannot keep jobs must not say that it serves"
        rig.start()
        rig.wait_ends()
        row = rig.row("disk read-only", seed)
        rig.close()
        return row


def wait_accepted(rig: Rig, jobs: int) -> None:
    from tests.support import wait_for

    from .rig import PATIENCE_S

    wait_for(
        lambda: sum(told["queued"] > 0 for told in list(rig.sender.heard.values())) >= jobs,
        rig.told("all are queued"),
        PATIENCE_S,
    )
