"""The engine process: the worker and everything it needs, put together.

`edgegen engine` calls `run_engine`; a front that owns its engine runs `python -m edgegen.jobs.worker`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from ..config.files import data_dir, database_path, gallery_dir, socket_path
from ..engine.metadata import read_metadata
from ..errors import EdgegenError
from ..settings import MqttSettings, Settings
from .checkpoints import Checkpoints
from .database import Database
from .enginelock import engine_lock
from .gallery import SUFFIXES, Gallery
from .guards import Guard
from .link import EngineLink
from .outbox import picture_room, result_outbox
from .pace import remember_pace
from .queue import JobQueue
from .restore import restore_jobs
from .sdnotify import SystemdNotifier
from .wakeup import StopRequest, Wakeup
from .wire import Message
from .workflowrenderer import JobRenderer
from .workloop import Worker

log = logging.getLogger(__name__)

QUICK_S = 0.05  # nobody sees more than 20 steps a second, and a cancel may take as long


def run_engine(settings: Settings) -> int:
    """The engine process from its start to SIGTERM, SIGINT or the front's `stop`; returns its exit code.

    Raises:
        StorageError: the queue cannot be opened, or another engine works on it.
        ConfigError: the control socket's path is too long.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read by ONNX Runtime when it is imported
    wakeup = Wakeup()
    stop = StopRequest(wakeup)
    stop.install()
    with engine_lock(data_dir(settings.node)):
        serve_queue(settings, wakeup, stop)
    return 0


def serve_queue(settings: Settings, wakeup: Wakeup, stop: StopRequest) -> None:
    """Puts the parts together, top to bottom, and takes them apart again. Needs the engine's lock."""
    notifier = SystemdNotifier()
    queue = JobQueue(database_path(settings.node), settings.queue, outbox=result_outbox(settings.mqtt))
    gallery = Gallery(gallery_dir(settings), queue.database, settings.gallery)
    checkpoints = Checkpoints(data_dir(settings.node) / "checkpoints", settings.engine.checkpoint_s)
    tidy_up(queue, gallery, checkpoints)
    restore_jobs(queue, gallery, settings.limits, read_metadata, settings.queue.keep_finished)
    retire = StopRequest(wakeup)
    link = EngineLink(socket_path(settings.node), lambda message: obey(message, wakeup, stop, retire))
    worker = Worker(
        queue,
        gallery,
        JobRenderer(settings),
        send=link.send,
        wakeup=wakeup,
        stop=stop,
        retire=retire,
        make_publish_copy=publish_copier(settings.mqtt, queue.database) if settings.mqtt.enabled else None,
        notifier=notifier,
        idle_unload_s=settings.engine.idle_unload_s,
        guard=Guard(settings.guards, wakeup.wait),
        checkpoints=checkpoints,
        remember_pace=lambda pace: remember_pace(queue.database, pace),
        previews=somebody_wants_previews(settings),
        quick_s=QUICK_S,
    )
    link.start()
    notifier.ready("idle")
    notifier.expect(settings.engine.step_timeout_s)  # fed at each step: a step past its deadline is hung
    try:
        worker.run()
    finally:
        notifier.stopping()
        link.close()
        queue.close()


def somebody_wants_previews(settings: Settings) -> bool:
    """The broker, or a screen."""
    over_mqtt = settings.mqtt.enabled and settings.mqtt.previews
    return over_mqtt or (settings.display.output != "off" and settings.display.previews)


def tidy_up(queue: JobQueue, gallery: Gallery, checkpoints: Checkpoints) -> None:
    """What an earlier engine left: its job goes back, the gallery's index is mended, and checkpoints of jobs
    that have ended go."""
    for job in queue.requeue_orphans("the engine died"):
        log.warning("job %s was left running: it is %s now", job.id, job.state.value)
    new, missing = gallery.reindex()
    if new or missing:
        log.warning("the gallery's index was mended: %d pictures found, %d gone", new, missing)
    if half := gallery.sweep():
        log.warning("the gallery was swept: %d half-written files are gone", half)
    gallery.apply_retention()
    checkpoints.sweep(lambda job_id: queue.place(job_id) is not None)


def obey(message: Message, wakeup: Wakeup, stop: StopRequest, retire: StopRequest) -> None:
    """What the front says; its hello is a reason to look for work, too."""
    if message["type"] == "stop":
        stop.ask()
    elif message["type"] == "retire":
        retire.ask()
    elif message["type"] in ("wake", "hello"):
        wakeup.wake()


def publish_copier(settings: MqttSettings, database: Database) -> Callable[[Path], tuple[bytes, str]]:
    """What makes bytes to publish of a picture file, and their suffix: as small as we and the broker want."""
    from .publish import encode_for_publish

    wanted = settings.image_format

    def copy(path: Path) -> tuple[bytes, str]:
        room = picture_room(database)
        most = settings.image_max_bytes if room is None else min(room, settings.image_max_bytes)
        return encode_for_publish(path, wanted, most), SUFFIXES[wanted]

    return copy


def main() -> int:
    """The engine of a front: its settings come as one line of JSON on standard input.

    Standard input then stays open. When it closes, the front is gone and the engine ends.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    settings = Settings.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_the_front, name="front-watch", daemon=True).start()
    try:
        return run_engine(settings)
    except EdgegenError as err:
        log.error("the engine cannot work: %s", err)
        return err.exit_code


def _end_with_the_front() -> None:
    # Not through sys.stdin: a thread that sleeps in its lock makes the interpreter abort at its end.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
