"""Commands become jobs: what arrived over MQTT is read, asked of the service and acknowledged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import paho.mqtt.client as paho

from ...errors import BadRequest, EdgegenError, Problem, StorageError, UnknownJob
from ...jobs.job import JOB_ID, Job, JobRequest, parse_request, peek_identity
from ...jobs.service import JobService, new_job_id
from ...jobs.workflowjob import ReadStored, nothing_stored
from ...settings import LimitSettings, MqttSettings
from . import messages
from .messages import Command, Outgoing
from .topics import Topics

log = logging.getLogger(__name__)
REDELIVERY_DELAY_S = 30.0


class Intake:
    """All of it runs on the network thread. A message is acknowledged when its job is committed, or refused.

    Args:
        limits: bounds of what a job may ask for.
        put: hands a message to the connection.
        tell_again: called with a job that is over and whose command came again, and that command's request.
        acknowledge: PUBACK. ask_redelivery: have the broker send again, after some seconds, what has none.
        handlers: of commands beside `generate` and `cancel`, by topic.
        read_stored: the bytes of a stored workflow, by its name.
    """

    def __init__(
        self,
        settings: MqttSettings,
        topics: Topics,
        service: JobService,
        limits: LimitSettings,
        put: Callable[[Outgoing], object],
        tell_again: Callable[[Job, JobRequest], object],
        acknowledge: Callable[[paho.MQTTMessage], object],
        ask_redelivery: Callable[[float], object],
        handlers: Mapping[str, Callable[[Command], object]],
        now: Callable[[], float] = time.time,
        redelivery_delay_s: float = REDELIVERY_DELAY_S,
        read_stored: ReadStored = nothing_stored,
    ):
        self._settings = settings
        self._topics = topics
        self._service = service
        self._limits = limits
        self._put = put
        self._tell_again = tell_again
        self._acknowledge = acknowledge
        self._ask_redelivery = ask_redelivery
        self._handlers = {topics.cancel: self._cancel, **handlers}
        self._job_topics = (topics.generate, topics.fleet_generate)
        self._now = now
        self._redelivery_delay_s = redelivery_delay_s
        self._read_stored = read_stored

    def take(self, messages: list[paho.MQTTMessage]) -> None:
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
            self._acknowledge(message)

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
        self._acknowledge(message)

    def _leave_unacknowledged(self, err: StorageError) -> None:
        log.error("job not stored, left unacknowledged for %g s: %s", self._redelivery_delay_s, err)
        self._ask_redelivery(self._redelivery_delay_s)

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
        self._acknowledge(message)

    def _request_of(self, command: Command) -> JobRequest:
        self._check_envelope(command)
        request = parse_request(
            command.payload,
            self._limits,
            source="mqtt",
            new_id=new_job_id,
            read_stored=self._read_stored,
        )
        return messages.with_properties(request, command, self._topics, self._now())

    def _note_submitted(self, job: Job, request: JobRequest) -> None:
        if job.request != request:
            log.info("job %s was known already", job.id)
        if job.state.is_final:  # a redelivery of what is over
            self._tell_again(job, request)

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
            messages.check_reply(command, self._topics)
            reply_to, correlation = command.response_topic, command.correlation
        except BadRequest:
            reply_to, correlation = None, None
        for message in messages.status_messages(status, self._topics, reply_to, correlation):
            self._put(message)


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
