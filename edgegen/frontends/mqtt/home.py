"""This device in Home Assistant: it is announced, its state is told, and its entities work.

The prompt and the steps that were set there outlive a restart; a press of the button makes a job of them.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ... import __version__
from ...errors import BadRequest, EdgegenError, Problem, StorageError
from ...jobs.events import JobEvent
from ...jobs.gallery import CONTENT_TYPES, SUFFIXES
from ...jobs.job import JobState, parse_request
from ...jobs.presses import Press, Presses
from ...jobs.service import JobService, new_job_id
from ...settings import NO_STYLE, LimitSettings, MqttSettings, StyleSettings
from . import discovery, messages
from .messages import JSON, Command, Outgoing
from .topics import Topics

log = logging.getLogger(__name__)

PROGRESS_S = 1.0  # the time left is told no more often than this
TEMPERATURE_S = 60.0
NOTED = {"prompt": "home_prompt", "steps": "home_steps", "style": "home_style"}
CANCELLED, PINS = "home_cancel", "home_pins"
MAX_PRESS_BYTES = 200


@dataclass(frozen=True)
class Surroundings:
    """What else of the device shows in Home Assistant.

    Attributes:
        styles: to choose from. pins: of the buttons, BCM numbers. presses: who tells of those.
    """

    styles: tuple[StyleSettings, ...] = ()
    pins: tuple[int, ...] = ()
    presses: Presses | None = None


ALONE = Surroundings()


class Home:
    """Does nothing where `home_assistant` is off.

    Args:
        put: hands a message to the connection.
        say_available: tells the availability again, for a Home Assistant that has just started.
        read_temperature: the CPU's, in °C; None where the machine does not tell.
    """

    def __init__(
        self,
        settings: MqttSettings,
        topics: Topics,
        service: JobService,
        limits: LimitSettings,
        put: Callable[[Outgoing], object],
        say_available: Callable[[], object],
        read_temperature: Callable[[], float | None],
        around: Surroundings = ALONE,
        temperature_s: float = TEMPERATURE_S,
    ):
        self._styles = {style.name: style for style in around.styles}
        self._pins, self._presses = around.pins, around.presses
        self._unsubscribe: Callable[[], None] | None = None
        self._is_on = settings.home_assistant
        self._prefix = settings.home_assistant_prefix
        self._image_type = CONTENT_TYPES[SUFFIXES[settings.image_format]]
        self._topics = topics
        self._service = service
        self._limits = limits
        self._put = put
        self._say_available = say_available
        self._read_temperature = read_temperature
        self._temperature_s = temperature_s
        self._last_error: str | None = None
        self._eta_s: float | None = None
        self._told_progress_at = float("-inf")
        self._told_temperature: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch_temperature, name="temperature", daemon=True)
        self._telling = threading.Lock()

    @property
    def is_on(self) -> bool:
        return self._is_on

    @property
    def handlers(self) -> dict[str, Callable[[Command], object]]:
        """What to do with a message, by topic. They raise StorageError when it must come again."""
        keys = {
            "prompt": self._set_prompt,
            "steps": self._set_steps,
            "style": self._set_style,
            "generate": self._generate,
            "cancel": self._cancel,
        }
        commands = {self._topics.home_command(key): partial(self._obey, act) for key, act in keys.items()}
        return {**commands, discovery.birth_topic(self._prefix): self._on_birth}

    def start(self) -> None:
        if self._is_on and self._presses:
            self._unsubscribe = self._presses.subscribe(self._tell_press)
        if self._is_on and self._read_temperature() is not None:
            self._thread.start()

    def close(self) -> None:
        """Safe to call twice."""
        self._closed.set()
        if self._unsubscribe:
            self._unsubscribe()
            self._unsubscribe = None
        if self._thread.is_alive():
            self._thread.join()

    def _obey(self, act: Callable[[Command], object], command: Command) -> None:
        try:
            if command.retain:
                raise BadRequest("a retained command would run again at every restart: send it not retained")
            act(command)
        except StorageError:
            raise
        except EdgegenError as err:
            log.warning("Home Assistant: %s", err)
            self._last_error = str(err)
            self.tell_state()

    def announce(self) -> None:
        """After every CONNACK, and when Home Assistant has started."""
        if not self._is_on:
            return
        payload = discovery.discovery(
            self._topics,
            __version__,
            self._image_type,
            self._limits.steps,
            self._limits.prompt_chars,
            self._read_temperature() is not None,
            tuple(self._styles),
            self._pins,
            self._gone_pins(),
        )
        self._retain(discovery.discovery_topic(self._prefix, self._topics), payload)
        # Offline, we know of no newer version: that is for `latest_version` to say, and else unknown.
        self._retain(self._topics.home_update, {"installed_version": __version__})
        try:
            self.tell_state()
        except EdgegenError as err:  # the connection must come up all the same
            log.warning("Home Assistant was not told the state: %s", err)

    def on_event(self, event: JobEvent) -> None:
        """A job has changed: so have the queue, the time left, or the last error."""
        if not self._is_on:
            return
        if event.kind == "running":
            self._eta_s = event.eta_s
            now = time.monotonic()
            if now - self._told_progress_at < PROGRESS_S:
                return
            self._told_progress_at = now
        elif event.job.state.is_final:
            self._eta_s = None
            if event.job.state == JobState.FAILED:
                self._last_error = event.job.reason
        self.tell_state()

    def tell_state(self) -> None:
        """One retained message for every entity; what is unknown is null."""
        with self._telling:  # an older state must not overtake a newer one
            self._told_temperature = self._read_temperature()
            self._retain(self._topics.home_state, self._state())

    def _state(self) -> dict[str, object]:
        counts, error = self._service.counts(), self._last_error
        return {
            "prompt": self._noted("prompt") or "",
            "steps": self._steps(),
            "style": style.name if (style := self._style()) else NO_STYLE,
            "queue": counts[JobState.QUEUED] + counts[JobState.RUNNING],
            "eta_s": None if self._eta_s is None else round(self._eta_s, 1),
            "last_error": error[: discovery.MAX_TEXT] if error else None,
            "temperature": self._told_temperature,
        }

    def _retain(self, topic: str, payload: dict[str, object]) -> None:
        self._put(Outgoing(topic, messages.to_json(payload), retain=True, content_type=JSON))

    def _noted(self, key: str) -> str | None:
        return self._service.noted(NOTED[key])

    def _steps(self) -> int | None:
        text = self._noted("steps")
        return int(text) if text and text.isdecimal() else None

    def _set_prompt(self, command: Command) -> None:
        text = command.payload.decode("utf-8", "replace").strip()
        most = min(discovery.MAX_TEXT, self._limits.prompt_chars)
        if len(text) > most:
            why = f"has {len(text)} characters; at most {most} are allowed"
            raise BadRequest([Problem("prompt", messages.shown(text), why)])
        self._note("prompt", text)

    def _set_steps(self, command: Command) -> None:
        text = command.payload[:20].decode("utf-8", "replace").strip()
        try:
            steps = float(text)
        except ValueError:
            steps = 0.0
        if not (1 <= steps <= self._limits.steps and steps.is_integer()):
            why = f"{text!r} must be a whole number from 1 to {self._limits.steps}"
            raise BadRequest([Problem("steps", text, why)])
        self._note("steps", str(int(steps)))

    def _style(self) -> StyleSettings | None:
        """The one that was chosen, while it is still configured."""
        return self._styles.get(self._noted("style") or "")

    def _set_style(self, command: Command) -> None:
        name = command.payload[:400].decode("utf-8", "replace")
        if name != NO_STYLE and name not in self._styles:
            known = ", ".join([NO_STYLE, *self._styles])
            raise BadRequest([Problem("style", messages.shown(name), f"is none of: {known}")])
        self._note("style", name)

    def _tell_press(self, press: Press) -> None:
        """On the buttons' thread. An event that comes late would be a lie: QoS 0, and never retained."""
        payload = messages.to_json({"event_type": press.kind})
        self._put(
            Outgoing(self._topics.home_button(press.pin), payload, qos=0, content_type=JSON, is_event=True)
        )

    def _gone_pins(self) -> set[int]:
        """Announced at any time, and no button any more; remembers what is announced now."""
        try:
            text = self._service.noted(PINS) or ""
            known = {int(pin) for pin in text.split(",") if pin.isdecimal()}
            if announced := set(self._pins) - known:
                self._service.note(PINS, ",".join(map(str, sorted(known | announced))))
        except StorageError as err:
            log.warning("Home Assistant may keep entities of earlier buttons: %s", err)
            return set()
        return known - set(self._pins)

    def _note(self, key: str, value: str) -> None:
        self._service.note(NOTED[key], value)
        self.tell_state()

    def _generate(self, command: Command) -> None:
        press, prompt = press_id(command.payload), self._noted("prompt")
        if not prompt:
            raise BadRequest([Problem("prompt", None, "is empty: say what to draw before pressing generate")])
        style = self._style()
        words = f"{prompt}, {style.suffix}" if style and style.suffix else prompt
        asked = {"id": press, "prompt": words, "steps": self._steps()}
        asked["negative_prompt"] = (style.negative_prompt if style else None) or None
        self._service.submit(parse_request(asked, self._limits, source="home_assistant", new_id=new_job_id))

    def _cancel(self, command: Command) -> None:
        """The job that runs, else the next one; without any there is nothing to do.

        A press that comes again must not cancel one job more.
        """
        if press := press_id(command.payload):
            if self._service.noted(CANCELLED) == press:
                return
            self._service.note(CANCELLED, press)
        for job in self._service.jobs(JobState.RUNNING, JobState.QUEUED, limit=1):
            self._service.cancel(job.id)

    def _on_birth(self, command: Command) -> None:
        if command.payload == discovery.ONLINE.encode():
            self.announce()
            self._say_available()

    def _watch_temperature(self) -> None:
        while not self._closed.wait(self._temperature_s):
            now, told = self._read_temperature(), self._told_temperature
            if now is None or told is None or abs(now - told) >= 1:
                try:
                    self.tell_state()
                except EdgegenError as err:
                    log.warning("the temperature was not told: %s", err)


def press_id(payload: bytes) -> str | None:
    """The same for the same press, delivered once or twice; None for one that does not tell itself apart.

    Raises:
        BadRequest: longer than any press.
    """
    if len(payload) > MAX_PRESS_BYTES:
        raise BadRequest(f"a press has {len(payload)} bytes; at most {MAX_PRESS_BYTES} are allowed")
    if payload.strip() in (b"", discovery.PRESS.encode()):
        return None
    return f"home-{hashlib.sha256(payload).hexdigest()[:32]}"
