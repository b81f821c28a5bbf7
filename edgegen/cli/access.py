"""How the shell reaches the jobs: through the daemon while it runs, else straight in the database.

Looking always reads the database, which is the truth and may be read at any time. Changes go through
the daemon, so that it wakes the engine and tells MQTT; without one they wait in the database for it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgegen.errors import BadRequest, Problem, UnknownJob

if TYPE_CHECKING:
    from edgegen.jobs.job import Job, JobRequest, JobState
    from edgegen.jobs.link import ShellLink
    from edgegen.jobs.queue import JobQueue
    from edgegen.settings import NodeSettings, Settings

MIN_PREFIX = 4
# What a request of the shell may say; the daemon fills in the rest.
ASKED = {
    *("id", "prompt", "negative_prompt", "prompt_syntax", "pack", "priority"),
    *("seed", "steps", "guidance", "width", "height", "sampler", "schedule"),
}
FILLED_IN = ASKED - {"id", "priority"}  # what a workflow holds already when the daemon gets it
DAEMON_TIMEOUT_S = 10.0
UNITS_SOCKET = Path("/run/edgegen/edgegen.sock")  # a shell has not the RUNTIME_DIRECTORY of the unit


def connect(node: NodeSettings) -> ShellLink:
    """A link to the running daemon: the one of these settings, else the one that systemd started.

    Raises:
        FrontError: it does not run, does not answer, or is not for this user to ask.
    """
    from edgegen.config.files import socket_path
    from edgegen.jobs.link import FrontError, ShellLink

    own = socket_path(node)
    if node.run_dir is not None or own.exists() or not UNITS_SOCKET.parent.is_dir():
        return ShellLink(own, DAEMON_TIMEOUT_S)
    if not os.access(UNITS_SOCKET.parent, os.X_OK):
        raise FrontError(
            f"{UNITS_SOCKET} is for the group {UNITS_SOCKET.parent.group()}: sudo usermod -aG "
            f"{UNITS_SOCKET.parent.group()} $USER, then log in again; or use sudo"
        )
    return ShellLink(UNITS_SOCKET, DAEMON_TIMEOUT_S)


class JobAccess:
    """The jobs of one device; a context manager that closes what it opened.

    Attributes:
        daemon: what the daemon says of itself, None when none answers; `absence` then says why.
        is_elsewhere: its database is not the one of our settings, so it alone can tell of its jobs.
    """

    def __init__(self, settings: Settings):
        from edgegen.jobs.link import FrontError

        self._settings = settings
        self._queue: JobQueue | None = None
        self._link: ShellLink | None = None
        self.daemon: dict[str, Any] | None = None
        self.absence = ""
        self.is_elsewhere = False
        try:
            self._link = connect(settings.node)
            self.is_elsewhere = self._link.path == UNITS_SOCKET
            self.daemon = self._link.ask("status")
        except FrontError as err:
            self.absence = str(err)
            self.close()

    def __enter__(self) -> JobAccess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Safe to call twice."""
        if self._queue is not None:
            self._queue.close()
        if self._link is not None:
            self._link.close()
        self._queue = self._link = None

    @property
    def source(self) -> str:
        """`daemon` or `database`: which of them answers."""
        return "database" if self._link is None else "daemon"

    @property
    def database_path(self) -> Path:
        from edgegen.config.files import database_path

        return database_path(self._settings.node)

    def submit(self, request: JobRequest) -> dict[str, Any]:
        """Commit a job; returns it as `describe_job` does.

        Raises:
            QueueFull, BadRequest: as many wait as may, or the daemon refuses it.
            BlockedPrompt: it says what this device does not draw.
            DiskFull: the disk's reserve is reached.
            StorageError: it could not be written.
        """
        from dataclasses import asdict

        from edgegen.jobs.shell import describe_job

        if self._link is None:
            queue = self._open()
            if not queue.knows(request.id):
                self._admit(queue, request)
            return describe_job(queue.enqueue(request).job)
        keys = ASKED if request.workflow is None else ASKED - FILLED_IN
        given = {k: v for k, v in asdict(request).items() if v is not None and k in keys}
        if request.workflow is not None:
            given["workflow"] = json.loads(request.workflow)
        return dict(self._link.ask("submit", request=given)["job"])

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job by its id, or by a prefix of at least 4 letters that only one active job has.

        Raises:
            UnknownJob: no such job. BadRequest: several.
        """
        from edgegen.jobs.shell import describe_job

        full_id = self.resolve(job_id)
        if self._link is None:
            return describe_job(self._open().cancel(full_id))
        return dict(self._link.ask("cancel", id=full_id)["job"])

    def resolve(self, text: str) -> str:
        """The id that `text` is, or is the start of."""
        near = [job.id for job in self.jobs(*active_states()) if job.id.startswith(text)]
        if text in near or len(text) < MIN_PREFIX or not near:
            return text if self.is_elsewhere else self._known_id(text)  # else the daemon tells
        if len(near) > 1:
            raise BadRequest([Problem("id", text, f"{text} fits {', '.join(near)}; give more of it")])
        return near[0]

    def _known_id(self, text: str) -> str:
        if self._is_empty():
            raise UnknownJob(f"no job {text!r} is known here: there are no jobs yet")
        return self._open().get(text).id

    def jobs(self, *states: JobState, limit: int = 1_000_000) -> list[Job]:
        """Running jobs, then waiting ones by turn, then finished ones, newest first."""
        if self.is_elsewhere:
            return self._told_jobs(states, limit)
        return [] if self._is_empty() else self._open().list(*states, limit=limit)

    def _told_jobs(self, states: tuple[JobState, ...], limit: int) -> list[Job]:
        from edgegen.jobs.shell import job_of

        assert self._link is not None
        told = self._link.ask("jobs", states=[state.value for state in states], limit=limit)
        return [job_of(job) for job in told["jobs"]]

    def counts(self) -> dict[str, int]:
        """Jobs by state."""
        from edgegen.jobs.job import JobState

        if self.is_elsewhere and self.daemon:
            return dict(self.daemon["jobs"])
        if self._is_empty():
            return {state.value: 0 for state in JobState}
        return {state.value: count for state, count in self._open().counts().items()}

    def place(self, job_id: str) -> int | None:
        """1 is next; None for a job that does not wait."""
        if self.is_elsewhere:
            waiting = [job.id for job in self.jobs(active_states()[1])]
            return waiting.index(job_id) + 1 if job_id in waiting else None
        return None if self._is_empty() else self._open().place(job_id)

    def database_lost(self) -> str | None:
        """When a damaged database was set aside, and what came back; None when none ever was."""
        from edgegen.jobs.database import SET_ASIDE

        if self.is_elsewhere and self.daemon:
            return self.daemon["database_lost"]
        return None if self._is_empty() else self._open().database.fact(SET_ASIDE)

    def _is_empty(self) -> bool:
        """Looking must not make the file: it would belong to whoever looked first."""
        return self._queue is None and not self.database_path.exists()

    def _admit(self, queue: JobQueue, request: JobRequest) -> None:
        """The same word lists and the same reserve as the daemon keeps."""
        from edgegen.config.files import embedding_dir, gallery_dir
        from edgegen.jobs.admission import check_embeddings, check_words, prompt_rules
        from edgegen.jobs.diskspace import DiskReserve
        from edgegen.jobs.gallery import Gallery

        check_words(prompt_rules(self._settings.prompts), request)
        check_embeddings(embedding_dir(self._settings), request)
        settings = self._settings.gallery
        gallery = Gallery(gallery_dir(self._settings), queue.database, settings)
        DiskReserve((self.database_path.parent, gallery.folder), settings, gallery.make_room).admit()

    def _open(self) -> JobQueue:
        from edgegen.jobs.outbox import result_outbox
        from edgegen.jobs.queue import JobQueue

        if self._queue is None:
            outbox = result_outbox(self._settings.mqtt)
            self._queue = JobQueue(self.database_path, self._settings.queue, outbox=outbox)
        return self._queue


def active_states() -> tuple[JobState, ...]:
    from edgegen.jobs.job import JobState

    return JobState.RUNNING, JobState.QUEUED
