"""Push buttons on GPIO pins: a press makes a job, the button's LED shows how it fares.

gpiozero runs all callbacks on one thread, so they only drop a note into an inbox. One thread of
ours reads it; it alone submits jobs, switches LEDs and holds state.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..errors import EdgegenError, PinsError
from ..jobs.buttonjobs import button_request
from ..jobs.events import JobEvent
from ..jobs.job import JobState
from ..jobs.presses import Press, Presses
from ..jobs.service import JobService, new_job_id
from ..jobs.workflowjob import ReadStored, nothing_stored
from ..settings import ButtonSettings, LimitSettings

log = logging.getLogger(__name__)

STUCK_AFTER_S = 5.0
FAILURE_BLINK_S = 3.0
_STOP = object()


class LedMode(StrEnum):
    OFF = "off"
    WAITING = "waiting"
    WORKING = "working"
    FAILURE = "failure"


class PromptPicker:
    """Which prompt a press takes: one at random, or the next in turn; None where there are none."""

    def __init__(self, prompts: tuple[str, ...], order: str, rng: random.Random):
        self._prompts = prompts
        self._order = order
        self._rng = rng
        self._next = 0

    def pick(self) -> str | None:
        if not self._prompts:
            return None
        if self._order == "random":
            return self._rng.choice(self._prompts)
        prompt = self._prompts[self._next % len(self._prompts)]
        self._next += 1
        return prompt


class ButtonJobs:
    """The jobs of one button, and what its LED should show of them. Pure: time comes from outside."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._failed_at: float | None = None

    def note(self, job_id: str, kind: str, now: float) -> None:
        """An event of a job of this button; `kind` is JobEvent's."""
        if kind in ("queued", "running"):
            self._states[job_id] = kind
            return
        self._states.pop(job_id, None)
        if kind == "failed":
            self.note_failure(now)

    def note_failure(self, now: float) -> None:
        self._failed_at = now

    def led_mode(self, now: float) -> LedMode:
        if self.failure_ends_in(now) is not None:
            return LedMode.FAILURE
        if "running" in self._states.values():
            return LedMode.WORKING
        return LedMode.WAITING if self._states else LedMode.OFF

    def failure_ends_in(self, now: float) -> float | None:
        """Seconds that a failure is still to be shown; None when there is none to show."""
        if self._failed_at is None or now >= self._failed_at + FAILURE_BLINK_S:
            return None
        return self._failed_at + FAILURE_BLINK_S - now


class WiredButton:
    """One button and its LED, on real or mock pins.

    A press counts when the finger leaves, unless it stayed so long that something leans on the button.
    """

    def __init__(
        self,
        settings: ButtonSettings,
        pin_factory: Any,
        on_press: Callable[[], object],
        on_hold: Callable[[], object],
    ):
        import gpiozero

        self._on_press = on_press
        self._on_hold = on_hold
        self._was_held = False
        self._mode = LedMode.OFF
        self._led: Any = None
        self._button = gpiozero.Button(
            settings.pin,
            bounce_time=settings.bounce_s or None,
            hold_time=STUCK_AFTER_S,
            pin_factory=pin_factory,
        )
        try:
            if settings.led is not None:
                self._led = gpiozero.LED(settings.led, pin_factory=pin_factory)
        except Exception:
            self._button.close()
            raise
        self._button.when_pressed = self._pressed
        self._button.when_held = self._held
        self._button.when_released = self._released

    def show(self, mode: LedMode) -> None:
        """Switch the LED; the same mode again disturbs no blinking."""
        if self._led is None or mode == self._mode:
            return
        self._mode = mode
        if mode == LedMode.WORKING:
            self._led.on()
        elif mode == LedMode.WAITING:
            self._led.blink(on_time=0.6, off_time=0.6)
        elif mode == LedMode.FAILURE:
            self._led.blink(on_time=0.1, off_time=0.1)
        else:
            self._led.off()

    def close(self) -> None:
        """Safe to call twice."""
        self._button.close()
        if self._led is not None:
            self._led.close()

    def _pressed(self) -> None:
        self._was_held = False

    def _held(self) -> None:
        self._was_held = True
        log.info("button %s held for %g s: not a press", self._button.pin, STUCK_AFTER_S)
        self._on_hold()

    def _released(self) -> None:
        if not self._was_held:
            self._on_press()


class ButtonFrontend:
    """Turns presses into jobs and shows those jobs on LEDs.

    Args:
        pin_factory: gpiozero's, a MockFactory in tests; None opens the machine's own pins.
        run_dir: folder where lgpio may leave its pipe.
        limits, read_stored: what a button's workflow is checked by, and where it is stored.
        presses: who else hears of presses and holds.
    """

    def __init__(
        self,
        buttons: tuple[ButtonSettings, ...],
        service: JobService,
        pin_factory: Any = None,
        rng: random.Random | None = None,
        run_dir: Path | None = None,
        presses: Presses | None = None,
        limits: LimitSettings | None = None,
        read_stored: ReadStored = nothing_stored,
    ):
        self._limits = limits or LimitSettings()
        self._read_stored = read_stored
        self._presses = presses or Presses()
        rng = rng or random.Random()
        self._settings = {button.pin: button for button in buttons}
        self._pickers = {b.pin: PromptPicker(b.prompts, b.order, rng) for b in buttons}
        self._jobs = {pin: ButtonJobs() for pin in self._settings}
        self._wired: dict[int, WiredButton] = {}
        self._service = service
        self._pin_factory = pin_factory
        self._run_dir = run_dir
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="buttons", daemon=True)
        self._unsubscribe: Callable[[], None] | None = None
        self.problems: list[str] = []

    def __enter__(self) -> ButtonFrontend:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def start(self) -> None:
        """Watch the buttons. One whose pins clash is told of in the log and in `problems`.

        Raises:
            PinsError: there are no pins here, or we may not use them; says what is missing.
        """
        if not self._settings:
            return
        factory = self._pin_factory or open_pins(self._run_dir)
        for settings in self._settings.values():
            self._wire(settings, factory)
        self._recall_jobs()
        self._unsubscribe = self._service.subscribe(self._inbox.put)
        self._thread.start()

    def close(self) -> None:
        """Submit the presses made so far, then let the pins go; safe to call twice."""
        if self._unsubscribe:
            self._unsubscribe()
            self._unsubscribe = None
        if self._thread.is_alive():
            self._inbox.put(_STOP)
            self._thread.join(timeout=30)
        for wired in self._wired.values():
            wired.close()
        self._wired = {}

    def _wire(self, settings: ButtonSettings, factory: Any) -> None:
        pin = settings.pin
        try:
            press, hold = Press(pin, "press"), Press(pin, "hold")
            put = self._inbox.put
            self._wired[pin] = WiredButton(settings, factory, lambda: put(press), lambda: put(hold))
        except Exception as err:  # noqa: BLE001  gpiozero and lgpio raise all kinds
            self.problems.append(f"button on GPIO{pin} (LED {settings.led}) does not work: {err}")
            log.error("%s", self.problems[-1])

    def _recall_jobs(self) -> None:
        """Jobs from before a restart still have their LED."""
        try:
            for job in self._service.jobs(JobState.QUEUED, JobState.RUNNING):
                self._inbox.put(JobEvent(job.state.value, job))
        except EdgegenError as err:
            log.warning("LEDs do not show earlier jobs: %s", err)

    # Our thread

    def _work(self) -> None:
        while True:
            try:
                note = self._inbox.get(timeout=self._wake_in())
            except queue.Empty:
                note = None
            if note is _STOP:
                return
            try:
                self._handle(note)
                self._show()
            except Exception:
                log.exception("button or LED failed")

    def _wake_in(self) -> float | None:
        now = time.monotonic()
        ends = [jobs.failure_ends_in(now) for jobs in self._jobs.values()]
        return min((end for end in ends if end is not None), default=None)

    def _handle(self, note: Press | JobEvent | None) -> None:
        if isinstance(note, JobEvent):
            if (pin := pin_of(note.job.request.source)) in self._jobs:
                self._jobs[pin].note(note.job.id, note.kind, time.monotonic())
        elif note is not None:
            self._presses.tell(note)
            if note.kind == "press":
                self._submit(note.pin)

    def _submit(self, pin: int) -> None:
        settings = self._settings[pin]
        prompt = self._pickers[pin].pick()
        try:
            request = button_request(settings, prompt, self._limits, new_job_id, self._read_stored)
            self._service.submit(request)
        except EdgegenError as err:
            log.warning("press of the button on GPIO%d refused: %s", pin, err)
            self._jobs[pin].note_failure(time.monotonic())

    def _show(self) -> None:
        now = time.monotonic()
        for pin, wired in self._wired.items():
            wired.show(self._jobs[pin].led_mode(now))


def pin_of(source: str) -> int:
    """`button:17` -> 17; -1 for a job that no button made."""
    kind, _, number = source.partition(":")
    return int(number) if kind == "button" and number.isdecimal() else -1


def open_pins(run_dir: Path | None) -> Any:
    """The machine's own pins, through lgpio unless $GPIOZERO_PIN_FACTORY says otherwise.

    Without that variable gpiozero would quietly fall back to worse libraries. lgpio leaves a pipe in
    $LG_WD, or in the working directory of whoever loads it first.

    Raises:
        PinsError: says what is missing.
    """
    os.environ.setdefault("GPIOZERO_PIN_FACTORY", "lgpio")
    try:
        with contextlib.ExitStack() as stack:
            if run_dir is not None:
                run_dir.mkdir(parents=True, exist_ok=True)
                os.environ.setdefault("LG_WD", str(run_dir))
                stack.enter_context(contextlib.chdir(run_dir))
            from gpiozero import Device

            Device.ensure_pin_factory()
            return Device.pin_factory
    except Exception as err:
        raise PinsError(f"buttons do not work: {why_no_pins(err)}") from err


def why_no_pins(error: Exception) -> str:
    """What is missing, and what to do about it."""
    if isinstance(error, ImportError):
        return f"{error}. Install the gpio extra: pip install 'edgegen[gpio]'"
    if not any(Path("/dev").glob("gpiochip*")):
        return f"this machine has no GPIO pins (no /dev/gpiochip*): {error}"
    if not any(os.access(chip, os.R_OK | os.W_OK) for chip in Path("/dev").glob("gpiochip*")):
        return "no access to /dev/gpiochip*: add the user to the group gpio"
    return f"{type(error).__name__}: {error}"
