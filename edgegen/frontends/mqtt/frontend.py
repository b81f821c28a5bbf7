"""Jobs in and pictures out over MQTT: commands become jobs, events become messages."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from ...jobs.events import JobEvent
from ...jobs.job import Job, JobRequest, JobState
from ...jobs.outbox import OutboxReader
from ...jobs.service import JobService
from ...jobs.workflowjob import ReadStored, nothing_stored
from ...settings import LimitSettings, MqttSettings
from . import messages
from .connection import Connection
from .courier import Courier
from .home import ALONE, Home, Surroundings
from .intake import REDELIVERY_DELAY_S, Intake
from .lastpicture import LastPicture
from .messages import Outgoing
from .outbox import Outbox
from .throttle import ProgressThrottle
from .topics import Topics


class MqttFrontend:
    """Speaks the MQTT contract for one device.

    Args:
        service: takes jobs and tells of their events.
        limits: bounds of what a job may ask for.
        read_picture: a done job's picture as it should be published; None when it is gone.
        results: the ends of jobs that the broker must hear of.
        read_temperature: the CPU's, in °C; None where the machine does not tell.
        around: styles and buttons, for Home Assistant.
        read_stored: the bytes of a stored workflow, by its name.
    Raises:
        ConfigError: a file of the login cannot be used.
    """

    def __init__(
        self,
        settings: MqttSettings,
        node_name: str,
        service: JobService,
        limits: LimitSettings,
        read_picture: Callable[[Job], bytes | None],
        results: OutboxReader,
        read_temperature: Callable[[], float | None] = lambda: None,
        around: Surroundings = ALONE,
        now: Callable[[], float] = time.time,
        redelivery_delay_s: float = REDELIVERY_DELAY_S,
        rng: random.Random | None = None,
        read_stored: ReadStored = nothing_stored,
    ):
        self.topics = Topics(settings.base, node_name)
        self._settings = settings
        self._service = service
        self._throttle = ProgressThrottle()
        self._last: Job | None = None
        self._owes_meta = False
        self._unsubscribe: Callable[[], None] | None = None
        self._outbox = Outbox()
        self._results = results
        self._picture = LastPicture(
            self.topics, read_picture, settings.image_max_bytes, results, lambda: self._connection.limits
        )
        self._courier = Courier(results, self._result, self._outbox.put, self._note_told)
        self._home = Home(
            settings,
            self.topics,
            service,
            limits,
            self._outbox.put,
            lambda: self._outbox.put(self._availability("online")),
            read_temperature,
            around,
        )
        self._connection = self._connect(settings, node_name, rng or random.Random())
        self._intake = Intake(
            settings,
            self.topics,
            service,
            limits,
            self._outbox.put,
            self._answer_again,
            self._connection.acknowledge,
            self._connection.ask_redelivery,
            # What was switched off is handled too: a session of ours may still hold messages of it.
            self._home.handlers if self._home.is_on else {},
            now,
            redelivery_delay_s,
            read_stored,
        )

    def _connect(self, settings: MqttSettings, node_name: str, rng: random.Random) -> Connection:
        """Knows where to and what to listen to; has not tried yet."""
        wanted = {
            self.topics.generate: True,
            self.topics.cancel: True,
            self.topics.fleet_share: settings.fleet,
            **dict.fromkeys(self._home.handlers, self._home.is_on),
        }
        return Connection(
            settings,
            settings.client_id or f"edgegen-{node_name}",
            tuple(topic for topic, is_on in wanted.items() if is_on),
            self._availability("offline"),
            self._outbox,
            lambda messages: self._intake.take(messages),
            self._announce,
            rng,
            tuple(topic for topic, is_on in wanted.items() if not is_on),
        )

    @property
    def is_connected(self) -> bool:
        return self._connection.is_up

    def start(self) -> None:
        """Listen to jobs and begin to connect; a broker that is away is tried again for ever."""
        if not self._courier.holds_picture():
            self._last = self._service.newest_done()
        self._unsubscribe = self._service.subscribe(self._on_event)
        if self._settings.previews:
            self._service.preview_listeners.append(self._on_preview)
        self._courier.start()
        self._home.start()
        self._connection.start()

    def close(self) -> None:
        """Say goodbye (availability offline) and stop; safe to call twice."""
        if self._unsubscribe:
            self._unsubscribe()
            self._unsubscribe = None
        if self._on_preview in self._service.preview_listeners:
            self._service.preview_listeners.remove(self._on_preview)
        self._home.close()
        self._courier.close()
        self._connection.close(self._availability("offline"))

    # On whichever thread caused the event

    def _answer_again(self, job: Job, request: JobRequest) -> None:
        """Nothing more will happen, so tell now; but not what the courier still carries, it would come twice.

        A broker that was cut off or killed sends a window full of commands again, whose jobs may have ended
        meanwhile. Then only an answer that is wanted elsewhere than the first one is the courier's no more.
        """
        told = self._status(JobEvent(job.state.value, job), request)
        if self._results.owes_status(job.id):
            told = [] if _answers_alike(job.request, request) else told[1:]
        self._put(told)

    def _on_event(self, event: JobEvent) -> None:
        job = event.job
        if job.state.is_final:
            self._throttle.forget(job.id)
            self._courier.fetch(job)
        elif event.kind != "running":
            self._throttle.forget(job.id)
            self._tell(event, job.request)
        elif event.note or self._throttle.passes(job.id, event.step, event.steps, time.monotonic()):
            self._tell(event, job.request)
        self._home.on_event(event)

    def _on_preview(self, job: Job, jpeg: bytes) -> None:
        """The next one shows more, so it goes with QoS 0."""
        topic = self.topics.preview(job.id)
        self._outbox.put(
            Outgoing(topic, jpeg, qos=0, content_type="image/jpeg", is_intermediate=True, expires=True)
        )

    def _tell(self, event: JobEvent, request: JobRequest) -> None:
        self._put(self._status(event, request))

    def _status(self, event: JobEvent, request: JobRequest) -> list[Outgoing]:
        status = messages.status_of(event, self.topics)
        correlation = bytes.fromhex(request.correlation) if request.correlation else None
        return messages.status_messages(status, self.topics, request.response_topic, correlation)

    def _result(self, job: Job, with_picture: bool) -> list[Outgoing]:
        """What the courier carries: the final status, and a done job's picture."""
        status = self._status(JobEvent(job.state.value, job), job.request)
        return status + (self._picture.messages(job) if with_picture and job.state == JobState.DONE else [])

    def _note_told(self, job: Job) -> None:
        if job.state != JobState.DONE or self._courier.holds_picture():
            return  # a newer picture follows
        self._last = job
        if self._owes_meta:
            self._owes_meta = False
            self._outbox.put(self._picture.messages(job)[0])

    def _announce(self) -> None:
        """After every CONNACK: a broker that lost its memory gets it back.

        While a picture is on its way the last one is not sent again: it would take the new one's place.
        """
        self._picture.note_room()
        if self._courier.holds_picture():
            self._owes_meta = True
        elif self._last is not None:
            for message in reversed(self._picture.messages(self._last)):
                self._outbox.put(message, first=True)
        self._outbox.put(self._availability("online"), first=True)
        self._home.announce()

    def _availability(self, state: str) -> Outgoing:
        return Outgoing(self.topics.availability, state.encode(), retain=True, content_type="text/plain")

    def _put(self, outgoing: list[Outgoing]) -> None:
        for message in outgoing:
            self._outbox.put(message)


def _answers_alike(first: JobRequest, again: JobRequest) -> bool:
    return (first.response_topic, first.correlation) == (again.response_topic, again.correlation)
