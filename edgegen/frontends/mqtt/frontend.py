"""Jobs in and pictures out over MQTT: commands become jobs, events become messages."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from itertools import groupby

import paho.mqtt.client as paho

from ...errors import BadRequest, EdgegenError, Problem, StorageError, UnknownJob
from ...jobs.events import JobEvent
from ...jobs.job import JOB_ID, Job, JobRequest, JobState, parse_request, peek_identity
from ...jobs.outbox import OutboxReader
from ...jobs.service import JobService, new_job_id
from ...jobs.workflowjob import ReadStored, nothing_stored
from ...settings import LimitSettings, MqttSettings
from . import messages
from .connection import Connection
from .courier import Courier
from .home import ALONE, Home, Surroundings
from .lastpicture import LastPicture
from .messages import Command, Outgoing
from .outbox import Outbox
from .throttle import ProgressThrottle
from .topics import Topics

log = logging.getLogger(__name__)
REDELIVERY_DELAY_S = 30.0


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
        self._limits = limits
        self._now = now
        self._read_stored = read_stored
        self._redelivery_delay_s = redelivery_delay_s
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
        # What was switched off is handled too: a session of ours may still hold messages of it.
        home = self._home.handlers if self._home.is_on else {}
        self._handlers: dict[str, Callable[[Command], object]] = {
            self.topics.cancel: self._cancel,
            **home,
        }
        self._job_topics = (self.topics.generate, self.topics.fleet_generate)
        wanted = {
            self.topics.generate: True,
            self.topics.cancel: True,
            self.topics.fleet_share: settings.fleet,
            **dict.fromkeys(self._home.handlers, self._home.is_on),
        }
        self._connection: Connection = Connection(
            settings,
            settings.client_id or f"edgegen-{node_name}",
            tuple(topic for topic, is_on in wanted.items() if is_on),
            self._availability("offline"),
            self._outbox,
            self._on_messages,
            self._announce,
            rng or random.Random(),
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

    # Commands in: on the network thread

    def _on_messages(self, messages: list[paho.MQTTMessage]) -> None:
        """In their order; jobs that came one behind the other are committed together."""
        for asks_for_job, group in groupby(messages, lambda m: m.topic in self._job_topics):
            if asks_for_job:
                self._generate_all(list(group))
            else:
                for message in group:
                    self._guarded(message, self._on_message)

    def _guarded(self, message: paho.MQTTMessage, handle: Callable[..., object], *more: object) -> None:
        """A fault of ours with one message does not reach the others; the broker sends it again."""
        try:
            handle(message, *more)
        except Exception:
            log.exception("a message on %s was not handled; left unacknowledged", message.topic)

    def _generate_all(self, group: list[paho.MQTTMessage]) -> None:
        asked: list[tuple[paho.MQTTMessage, Command, JobRequest]] = []
        for message in group:
            self._guarded(message, self._read_request, asked)
        answers: Sequence[Job | EdgegenError]
        try:
            answers = self._service.submit_all([request for _, _, request in asked])
        except StorageError as err:
            answers = [err] * len(asked)
        for (message, command, request), answer in zip(asked, answers, strict=True):
            self._guarded(message, self._answer, command, request, answer)

    def _read_request(
        self, message: paho.MQTTMessage, asked: list[tuple[paho.MQTTMessage, Command, JobRequest]]
    ) -> None:
        command = to_command(message)
        try:
            asked.append((message, command, self._request_of(command)))
        except EdgegenError as err:
            self._reject(command, err)
            self._connection.acknowledge(message)

    def _answer(
        self, message: paho.MQTTMessage, command: Command, request: JobRequest, answer: Job | EdgegenError
    ) -> None:
        if isinstance(answer, StorageError) and message.qos:
            self._leave_unacknowledged(answer)
            return
        if isinstance(answer, EdgegenError):
            self._reject(command, answer)
        else:
            self._note_submitted(answer, request)
        self._connection.acknowledge(message)

    def _leave_unacknowledged(self, err: StorageError) -> None:
        log.error("job not stored, left unacknowledged for %g s: %s", self._redelivery_delay_s, err)
        self._connection.ask_redelivery(self._redelivery_delay_s)

    def _on_message(self, message: paho.MQTTMessage) -> None:
        handle = self._handlers.get(message.topic)
        if handle is None:
            log.warning("message on %s, which we did not ask for", message.topic)
        else:
            command = to_command(message)
            try:
                handle(command)
            except StorageError as err:
                if message.qos:
                    self._leave_unacknowledged(err)
                    return
                self._reject(command, err)  # nobody will send a QoS 0 command again
            except EdgegenError as err:
                self._reject(command, err)
        self._connection.acknowledge(message)

    def _request_of(self, command: Command) -> JobRequest:
        self._check_envelope(command)
        request = parse_request(
            command.payload,
            self._limits,
            source="mqtt",
            new_id=new_job_id,
            read_stored=self._read_stored,
        )
        return messages.with_properties(request, command, self.topics, self._now())

    def _note_submitted(self, job: Job, request: JobRequest) -> None:
        if job.request != request:
            log.info("job %s was known already", job.id)
        if job.state.is_final:  # a redelivery of what is over
            self._answer_again(job, request)

    def _answer_again(self, job: Job, request: JobRequest) -> None:
        """Nothing more will happen, so tell now; but not what the courier still carries, it would come twice.

        A broker that was cut off or killed sends a window full of commands again, whose jobs may have ended
        meanwhile. Then only an answer that is wanted elsewhere than the first one is the courier's no more.
        """
        told = self._status(JobEvent(job.state.value, job), request)
        if self._results.owes_status(job.id):
            told = [] if _answers_alike(job.request, request) else told[1:]
        self._put(told)

    def _cancel(self, command: Command) -> None:
        self._check_envelope(command)
        job_id = read_job_id(command.payload)
        try:
            self._service.cancel(job_id)
        except UnknownJob as err:
            self._reject(command, err, job_id)

    def _check_envelope(self, command: Command) -> None:
        if command.retain:
            raise BadRequest(
                "retained commands are refused, they would run again at every restart: send it not retained",
                code="retained",
            )
        if len(command.payload) > self._settings.max_payload:
            raise BadRequest(
                f"the payload has {len(command.payload)} bytes; "
                f"at most {self._settings.max_payload} (mqtt.max_payload) are allowed",
                code="too_large",
            )

    def _reject(self, command: Command, error: EdgegenError, job_id: str | None = None) -> None:
        known_id, transaction = None, None
        if len(command.payload) <= self._settings.max_payload:
            known_id, transaction = peek_identity(command.payload)
        status = messages.rejection(error, job_id or known_id or new_job_id(), transaction)
        log.warning("rejected: %s", error)
        try:
            messages.check_reply(command, self.topics)
            reply_to, correlation = command.response_topic, command.correlation
        except BadRequest:
            reply_to, correlation = None, None
        self._put(messages.status_messages(status, self.topics, reply_to, correlation))

    # Events out: on whichever thread caused them

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


def read_job_id(payload: bytes) -> str:
    """The id in a cancel command: `{"id": "..."}` or the bare id.

    Raises:
        BadRequest: there is none.
    """
    job_id = peek_identity(payload)[0] or payload.decode("utf-8", "replace").strip()
    if not JOB_ID.fullmatch(job_id):
        message = 'must be a job id of 1 to 64 of A-Z a-z 0-9 _ . -, bare or as {"id": "..."}'
        raise BadRequest([Problem("id", messages.shown(job_id), message)])
    return job_id


def to_command(message: paho.MQTTMessage) -> Command:
    """What arrived, without paho."""
    properties = message.properties
    return Command(
        payload=bytes(message.payload),
        retain=bool(message.retain),
        response_topic=getattr(properties, "ResponseTopic", None),
        correlation=getattr(properties, "CorrelationData", None),
        expiry_s=getattr(properties, "MessageExpiryInterval", None),
    )
