"""What the pictures still know after the database was lost: their own metadata become finished jobs again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import BadRequest
from ..settings import LimitSettings
from .database import REINDEX_DUE, SET_ASIDE, set_fact
from .gallery import Gallery, job_id_of
from .job import MAX_SEED, Job, JobRequest, JobState, parse_request
from .queue import JobQueue
from .sync import Sync

log = logging.getLogger(__name__)

ASKED = (
    *("prompt", "negative_prompt", "prompt_syntax", "steps", "guidance"),
    *("width", "height", "sampler", "schedule", "pack"),
)


def restore_jobs(
    queue: JobQueue,
    gallery: Gallery,
    limits: LimitSettings,
    read_metadata: Callable[[Path], dict[str, Any] | None],
    most: int,
) -> int:
    """Once after a damaged file was set aside; call it with the gallery's index mended.

    Args:
        read_metadata: what a picture says of itself; None when it says nothing.
        most: pictures looked at, the newest.
    Returns:
        how many jobs came back.
    """
    database = queue.database
    if database.fact(REINDEX_DUE) is None:
        return 0
    names = gallery.names(limit=most)
    found = {
        job.id: job for name in reversed(names) if (job := _job_of(gallery, name, limits, read_metadata))
    }
    restored = queue.restore(list(found.values()))
    said = f"{len(names)} pictures were indexed again and {restored} finished jobs read from them"
    log.warning("after the loss of the database %s", said)
    with database.transaction(Sync.NOW) as db:
        set_fact(db, REINDEX_DUE, None)
        set_fact(db, SET_ASIDE, f"{database.fact(SET_ASIDE)}; {said}")
    return restored


def _job_of(
    gallery: Gallery,
    name: str,
    limits: LimitSettings,
    read_metadata: Callable[[Path], dict[str, Any] | None],
) -> Job | None:
    """The done job that a picture came from; None when it does not tell, or tells nonsense."""
    path = gallery.path(name)
    told = read_metadata(path) or {}
    seed, seconds = told.get("seed"), told.get("seconds")
    request = _request(job_id_of(name), told, limits)
    if request is None or type(seed) is not int or not 0 <= seed <= MAX_SEED:
        log.warning("%s: does not say which prompt and seed it came from", path)
        return None
    made = path.stat().st_mtime
    known_s = float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < 1e9 else None
    return Job(request, JobState.DONE, made, 1, finished=made, seconds=known_s, seed=seed, picture=name)


def _request(job_id: str, told: dict[str, Any], limits: LimitSettings) -> JobRequest | None:
    """Checked as any request from outside: a file may say anything."""
    asked = {key: told[key] for key in ASKED if told.get(key) not in (None, "")}
    asked.setdefault("prompt", told.get("title"))  # a workflow's picture
    try:
        return parse_request({**asked, "id": job_id}, limits, source="restored", new_id=lambda: job_id)
    except BadRequest:
        return None
