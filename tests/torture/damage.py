"""Flipped bits and cut-off ends in what the device keeps: database, configuration, pack, picture."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from edgegen.config.files import load_effective
from edgegen.engine.metadata import read_metadata
from edgegen.engine.pipeline import TextToImage
from edgegen.engine.request import resolve_settings
from edgegen.errors import ConfigError, EngineError, PackError, StorageError
from edgegen.jobs.job import JobRequest
from edgegen.jobs.queue import JobQueue
from edgegen.pack import Pack
from edgegen.settings import LimitSettings

from .rig import ROOT
from .tally import Row, count

FIRST_PAGE = 4096  # it says where all others are: without it nothing can be read back


def flip(data: bytearray, rng: random.Random, first: int = 0, flips: int = 3) -> bytes:
    for _ in range(flips):
        data[rng.randrange(first, len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def cut(data: bytearray, rng: random.Random, first: int = 0) -> bytes:
    return bytes(data[: rng.randrange(first, len(data))])


def harm(path: Path, rng: random.Random, first: int = 0) -> None:
    how = rng.choice((flip, cut))
    path.write_bytes(how(bytearray(path.read_bytes()), rng, first))


def run_database(seed: int, rounds: int = 20, jobs: int = 24) -> Row:
    """One flipped bit a round costs the record that it hits at most; every other job is drawn or told of."""
    rng = random.Random(seed)
    accepted: set[str] = set()
    pictures: Counter[str] = Counter()
    refused: set[str] = set()
    for round_ in range(rounds):
        folder = Path(tempfile.mkdtemp(prefix="egt-"))
        names = [f"r{round_}-{number:03}" for number in range(jobs)]
        queue = JobQueue(folder / "edgegen.db")
        for name in names:
            queue.enqueue(JobRequest(name, "a red apple " * rng.randint(1, 40)))
        queue.database.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        queue.close()
        flipped = flip(bytearray(queue.database.path.read_bytes()), rng, FIRST_PAGE, flips=1)
        queue.database.path.write_bytes(flipped)
        drawn, told = work_off(queue.database.path)
        accepted |= set(names)
        pictures += drawn
        refused |= told
        shutil.rmtree(folder)
    heard = Counter({name: 1 for name in accepted if pictures[name] or name in refused})
    row = count("database: flipped bits", seed, rounds, accepted, pictures, refused, heard)
    return replace(row, lost=0, destroyed=row.lost)


def work_off(path: Path) -> tuple[Counter[str], set[str]]:
    """Be the engine until nothing waits: jobs drawn, and jobs that failed with a reason."""
    drawn: Counter[str] = Counter()
    queue = JobQueue(path)
    for _ in range(40):
        try:
            while job := queue.claim():
                if queue.finish(job, picture=f"{job.id}.png", seed=1, seconds=1.0):
                    drawn[job.id] += 1
            failed = {job.id for job in queue.list(limit=100_000) if job.code == "damaged"}
            break
        except StorageError:
            queue.requeue_orphans()
    queue.close()
    return drawn, failed


def run_config(seed: int, rounds: int = 200) -> int:
    """A damaged file is read or refused with reasons; anything else is raised. How many were refused."""
    rng = random.Random(seed)
    text = (
        '[node]\nname = "kiosk"\n[mqtt]\nenabled = true\nport = 1883\n[[buttons]]\npin = 4\nprompts = ["é"]\n'
    )
    folder = Path(tempfile.mkdtemp(prefix="egt-"))
    path, refused = folder / "config.toml", 0
    for _ in range(rounds):
        path.write_text(text)
        harm(path, rng)
        try:
            load_effective(path, {})
        except ConfigError:
            refused += 1
    shutil.rmtree(folder)
    return refused


def run_pack(seed: int, rounds: int = 20) -> int:
    """A damaged graph, weights file or tokenizer is refused with a reason, before parsing. How many were."""
    rng, refused = random.Random(seed), 0
    for _ in range(rounds):
        folder = Path(tempfile.mkdtemp(prefix="egt-"))
        shutil.copytree(ROOT / "tests/packs/tiny", folder / "tiny")
        files = sorted(p for p in (folder / "tiny").rglob("*") if p.is_file() and p.name != "pack.json")
        harm(rng.choice(files), rng)
        refused += refuses(lambda folder=folder: draw(folder / "tiny"))
        shutil.rmtree(folder)
    return refused


def draw(folder: Path) -> None:
    pack = Pack.open(folder)
    asked = SimpleNamespace(**{**vars(JobRequest("a", "a red apple", steps=1, width=64, height=64))})
    pipeline = TextToImage(pack, "cpu", 1)
    try:
        for _ in pipeline.generate(resolve_settings(pack, asked, LimitSettings())):
            pass
    finally:
        pipeline.close()


def run_picture(seed: int, picture: Path, rounds: int = 100) -> int:
    """What a damaged picture says of itself is nothing, or something that JSON can hold. How many said it."""
    rng, silent = random.Random(seed), 0
    whole = picture.read_bytes()
    for _ in range(rounds):
        picture.write_bytes(whole)
        harm(picture, rng)
        told = read_metadata(picture)
        json.dumps(told)
        silent += told is None
    return silent


def refuses(act: Callable[[], object]) -> bool:
    try:
        act()
    except (PackError, EngineError) as err:
        assert str(err), "a refusal says why"
        return True
    return False
