"""The front: the only file that constructs it. Start order reads top to bottom, stop order is its reverse.

It stays small: no numpy, no Pillow, no ONNX Runtime; those live in the engine's process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .config.files import (
    data_dir,
    database_path,
    embedding_dir,
    gallery_dir,
    run_dir,
    socket_path,
    workflow_dir,
)
from .config.reload import FRONT_ENDS, ConfigSource, LiveConfig, concerns_engine, touches
from .jobs.admission import Admission, RateLimiter, prompt_rules
from .jobs.closing import Closing
from .jobs.diskspace import DiskReserve
from .jobs.enginedesk import EngineDesk
from .jobs.gallery import CONTENT_TYPES, SUFFIXES, Gallery
from .jobs.hub import Hub
from .jobs.job import Job, parse_request
from .jobs.outbox import OutboxReader, result_outbox
from .jobs.presses import Presses
from .jobs.queue import JobQueue
from .jobs.sdnotify import SystemdNotifier
from .jobs.service import JobService, new_job_id
from .jobs.shell import describe_job
from .jobs.supervisor import Supervisor
from .jobs.thermal import cpu_temperature
from .jobs.wakeup import ReloadRequest, StopRequest, Wakeup
from .jobs.wire import Message
from .jobs.workflowjob import WorkflowFolder
from .safemode import wait_in_safe_mode
from .settings import MqttSettings, Settings

log = logging.getLogger(__name__)

FRONTEND_RETRY_S = 30.0
# The unit has 30 s (TimeoutStopSec), the stages 24 together.
END_WITHIN_S = 27.0
ENGINE_ENDS_S, HUB_ENDS_S, FRONT_ENDS_END_S, QUEUE_ENDS_S = 11.0, 3.0, 8.0, 2.0
ORPHAN_RETRY_S = 1.0


class FrontEnd(Protocol):
    def start(self) -> object: ...
    def close(self) -> object: ...


def run_front(settings: Settings | None, *, with_engine: bool, source: ConfigSource | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Args:
        settings: None when they are broken: then serve in safe mode until SIGHUP finds them mended.
        source: where they are read again on SIGHUP; None: never.
        with_engine: start and watch an engine; False when another unit does.
    Raises:
        StorageError: the queue or the control socket cannot be made, or another front serves them.
        ConfigError: the control socket's path is too long.
    """
    wakeup = Wakeup()
    stop = StopRequest(wakeup, END_WITHIN_S)
    stop.install()
    reload = ReloadRequest(wakeup)
    if source:
        reload.install()
        settings = settings or wait_in_safe_mode(source, wakeup, stop, reload)
    if settings:
        live = LiveConfig(settings, source)
        with Closing() as closing:
            serve(live, with_engine, wakeup, stop, reload, closing)
        closing.leave_if_stuck()
    return 0


@dataclass(frozen=True)
class Core:
    """Jobs and pictures, and what front ends see of them."""

    queue: JobQueue
    gallery: Gallery
    reserve: DiskReserve
    admission: Admission
    service: JobService
    results: OutboxReader
    presses: Presses


def make_core(settings: Settings, closing: Closing) -> Core:
    """Raises StorageError: the queue cannot be made."""
    queue = JobQueue(database_path(settings.node), settings.queue, outbox=result_outbox(settings.mqtt))
    closing.add("the queue", queue.close, QUEUE_ENDS_S)
    gallery = Gallery(gallery_dir(settings), queue.database, settings.gallery)
    reserve = DiskReserve((data_dir(settings.node), gallery.folder), settings.gallery, gallery.make_room)
    rates, embeddings = RateLimiter(settings.rate), embedding_dir(settings)
    admission = Admission(prompt_rules(settings.prompts), rates, embeddings)
    service = JobService(queue, gallery, reserve=reserve, admission=admission)
    return Core(queue, gallery, reserve, admission, service, OutboxReader(queue.database), Presses())


def serve(
    live: LiveConfig,
    with_engine: bool,
    wakeup: Wakeup,
    stop: StopRequest,
    reload: ReloadRequest,
    closing: Closing,
) -> None:
    """Everything the front is made of. What `closing` gets last, ends first."""
    settings = live.settings
    notifier = SystemdNotifier()
    core = make_core(settings, closing)
    front_ends = FrontEnds(front_end_builders(settings, core))
    # After the hub: whatever an engine still says is passed on.
    closing.add("the front ends", front_ends.close, FRONT_ENDS_END_S)

    engine = EngineSide()
    desk = EngineDesk(
        core.service, data_dir(settings.node), is_supervised=with_engine, note=engine.note, wake=wakeup.wake
    )
    engine.hub = hub = open_hub(live, core.service, desk)
    closing.add("the hub", hub.close, HUB_ENDS_S)

    front_ends.start_missing()  # before anything happens that they must hear of
    hub.start()
    desk.recover("the engine died while the front was away")
    core.service.announce_finished()  # what an engine finished while no front was there to tell

    if with_engine:
        engine.supervisor = Supervisor(settings.model_dump_json(), desk.bury, settings.engine.step_timeout_s)
        engine.supervisor.start()
        closing.add("the engine", engine.supervisor.close, ENGINE_ENDS_S)

    notifier.ready("serving")
    closing.add("the notice to systemd", notifier.stopping, 1.0)
    attend(
        hub, desk, front_ends, notifier, wakeup, stop, live, reload, TakeOver(live, core, front_ends, engine)
    )


def open_hub(live: LiveConfig, service: JobService, desk: EngineDesk) -> Hub:
    """The control socket, which nobody is answered on yet.

    Raises:
        StorageError: it cannot be made, or another front serves it. ConfigError: its path is too long.
    """
    submit = shell_submit(service, lambda: live.settings)
    about = lambda: {"config": live.describe()}  # noqa: E731
    hub = Hub(socket_path(live.settings.node), service, submit, desk.hear, about)
    hub.open()
    return hub


class EngineSide:
    """Who speaks with the engine, and who cares for its process where we do."""

    hub: Hub
    supervisor: Supervisor | None = None

    def note(self, message: Message) -> None:
        """The supervisor hears everything; an engine that missed a change while it started retires."""
        if self.supervisor:
            self.supervisor.note(message)
            if message["type"] == "connected" and self.supervisor.is_stale:
                self.hub.retire_engine()

    def renew(self, settings: Settings) -> None:
        """Have the next engine start with other settings, after the job that runs."""
        if self.supervisor:
            self.supervisor.renew(settings.model_dump_json(), settings.engine.step_timeout_s)
        self.hub.retire_engine()


@dataclass(frozen=True)
class TakeOver:
    """Reads the configuration again and has every part use what changed."""

    live: LiveConfig
    core: Core
    front_ends: FrontEnds
    engine: EngineSide

    def __call__(self) -> None:
        live, core = self.live, self.core
        changed = live.reload()
        core.queue.outbox = result_outbox(live.settings.mqtt)
        core.gallery.settings = core.reserve.settings = live.settings.gallery
        renew_admission(core.admission, live.settings, changed)
        self.front_ends.renew(front_end_builders(live.settings, core), changed)
        if concerns_engine(changed):
            self.engine.renew(live.settings)
        self.engine.hub.tell_config()


def renew_admission(admission: Admission, settings: Settings, changed: Sequence[str]) -> None:
    """Lists are read again at every reload, their files may have changed; buckets with their rates."""
    admission.prompts = prompt_rules(settings.prompts)
    admission.embeddings = embedding_dir(settings)
    if touches(("rate",), changed):
        admission.rates = RateLimiter(settings.rate)


def attend(
    hub: Hub,
    desk: EngineDesk,
    front_ends: FrontEnds,
    notifier: SystemdNotifier,
    wakeup: Wakeup,
    stop: StopRequest,
    live: LiveConfig,
    reload: ReloadRequest,
    take_over: Callable[[], None],
) -> None:
    """The main thread: asleep, but for what is due."""
    while not stop.is_asked:
        if reload.take() or live.trial_left_s() == 0:
            take_over()
        if hub.is_alive:
            notifier.alive()
        desk.collect_orphans()
        front_ends.start_missing()
        due = (
            notifier.watchdog_s,
            live.trial_left_s(),
            ORPHAN_RETRY_S if desk.orphans_due else None,
            FRONTEND_RETRY_S if front_ends.missing else None,
        )
        wakeup.wait(min((s for s in due if s is not None), default=None))


def shell_submit(service: JobService, now: Callable[[], Settings]) -> Callable[[Message], Message]:
    """How a shell's request becomes a job, by the settings of the moment."""

    def submit(request: Message) -> Message:
        limits, stored = now().limits, WorkflowFolder(workflow_dir(now()))
        asked = parse_request(request, limits, source="cli", new_id=new_job_id, read_stored=stored.read)
        job = service.submit(asked)
        return {"job": describe_job(job), "place": service.place(job.id), "eta_s": service.eta_s(job.id)}

    return submit


Builder = Callable[[], FrontEnd]


def front_end_builders(settings: Settings, core: Core) -> dict[str, Builder]:
    """What makes each front end that is switched on; only those are ever imported."""

    def mqtt() -> FrontEnd:
        from .frontends.mqtt import MqttFrontend, Surroundings

        reader = picture_reader(core.service, settings.mqtt)
        around = Surroundings(settings.styles, tuple(button.pin for button in settings.buttons), core.presses)
        return MqttFrontend(
            settings.mqtt,
            settings.node.name,
            core.service,
            settings.limits,
            reader,
            core.results,
            cpu_temperature,
            around,
            read_stored=WorkflowFolder(workflow_dir(settings)).read,
        )

    def buttons() -> FrontEnd:
        from .frontends.buttons import ButtonFrontend

        return ButtonFrontend(
            settings.buttons,
            core.service,
            run_dir=run_dir(settings.node),
            presses=core.presses,
            limits=settings.limits,
            read_stored=WorkflowFolder(workflow_dir(settings)).read,
        )

    wanted = {"mqtt": (settings.mqtt.enabled, mqtt), "buttons": (bool(settings.buttons), buttons)}
    return {name: build for name, (is_on, build) in wanted.items() if is_on}


def picture_reader(service: JobService, settings: MqttSettings) -> Callable[[Job], bytes | None]:
    """Reads the bytes that the engine prepared for the broker; None when they are gone."""
    content_type = CONTENT_TYPES[SUFFIXES[settings.image_format]]

    def read(job: Job) -> bytes | None:
        picture = service.picture(job, settings.image_max_bytes)
        return picture.data if picture and picture.content_type == content_type else None

    return read


class FrontEnds:
    """Starts front ends; one that cannot start is told of and tried again, the others go on."""

    def __init__(self, builders: dict[str, Builder]):
        self.missing = dict(builders)
        self._running: dict[str, FrontEnd] = {}
        self._told: dict[str, str] = {}

    def start_missing(self) -> None:
        for name, build in tuple(self.missing.items()):
            try:
                self._running[name] = started(build)
            except Exception as err:  # noqa: BLE001 - whatever it is, the others must not suffer
                self._tell(name, err)
            else:
                del self.missing[name]
                log.info("front end %s is up", name)

    def renew(self, builders: dict[str, Builder], changed: Sequence[str]) -> None:
        """Close those that are made of changed keys and build them anew; the others never notice."""
        for name, sections in FRONT_ENDS.items():
            if touches(sections, changed):
                if front_end := self._running.pop(name, None):
                    self._close(name, front_end)
                self.missing.pop(name, None)
                self._told.pop(name, None)
                if name in builders:
                    self.missing[name] = builders[name]

    def close(self) -> None:
        """Safe to call twice."""
        for name, front_end in reversed(self._running.items()):
            self._close(name, front_end)
        self._running.clear()

    def _close(self, name: str, front_end: FrontEnd) -> None:
        try:
            front_end.close()
        except Exception:
            log.exception("front end %s did not close", name)

    def _tell(self, name: str, err: Exception) -> None:
        """Once, until the reason changes."""
        reason = f"{type(err).__name__}: {err}"
        if self._told.get(name) != reason:
            log.error("front end %s cannot start, tried again every %g s: %s", name, FRONTEND_RETRY_S, reason)
        self._told[name] = reason


def started(build: Builder) -> FrontEnd:
    """A front end that runs; one that fails to start is closed before its error goes on."""
    front_end = build()
    try:
        front_end.start()
    except BaseException:
        front_end.close()
        raise
    return front_end
