from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from gpiozero.pins.mock import MockFactory
from pydantic import ValidationError

from edgegen.errors import PinsError
from edgegen.frontends import buttons
from edgegen.frontends.buttons import ButtonFrontend, ButtonJobs, LedMode, PromptPicker
from edgegen.jobs.buttonjobs import button_problems
from edgegen.jobs.job import JobRequest
from edgegen.jobs.presses import Press, Presses
from edgegen.jobs.queue import JobQueue
from edgegen.jobs.service import JobService
from edgegen.jobs.workflowjob import WorkflowFolder
from edgegen.settings import ButtonSettings, QueueSettings, Settings
from tests.support import text_to_image_graph, wait_for

PORTRAIT = ButtonSettings(pin=17, prompts=("a fox", "an owl", "a bear"), order="next", led=27)
FLOWER = ButtonSettings(pin=22, prompts=("a rose",), steps=4, pack="pocket")


@pytest.fixture
def pins():
    factory = MockFactory()
    yield factory
    factory.reset()


@pytest.fixture
def queue(tmp_path: Path):
    queue = JobQueue(tmp_path / "edgegen.db", QueueSettings(max_jobs=3))
    yield queue
    queue.close()


@pytest.fixture
def service(queue: JobQueue) -> JobService:
    return JobService(queue)


def press(pins: MockFactory, number: int) -> None:
    """A button pulls up: low is pressed."""
    pins.pin(number).drive_low()
    pins.pin(number).drive_high()


def test_presses_become_jobs_of_that_buttons_prompts(pins, service):
    with ButtonFrontend((PORTRAIT, FLOWER), service, pins):
        press(pins, 17)
        press(pins, 22)
        press(pins, 17)
    jobs = service.jobs()
    assert [(j.request.prompt, j.request.source) for j in jobs] == [
        ("a fox", "button:17"),
        ("a rose", "button:22"),
        ("an owl", "button:17"),
    ]
    assert (jobs[1].request.steps, jobs[1].request.pack) == (4, "pocket")


def test_presses_and_holds_are_told_to_others(pins, service, monkeypatch):
    monkeypatch.setattr(buttons, "STUCK_AFTER_S", 0.05)
    heard: list[Press] = []
    presses = Presses()
    presses.subscribe(lambda _press: 1 / 0)  # one that fails harms nobody
    forget = presses.subscribe(heard.append)
    with ButtonFrontend((PORTRAIT,), service, pins, presses=presses):
        press(pins, 17)
        pins.pin(17).drive_low()
        wait_for(lambda: Press(17, "hold") in heard, "the hold is told")
        pins.pin(17).drive_high()
    assert heard == [Press(17, "press"), Press(17, "hold")]
    assert len(service.jobs()) == 1, "a hold makes no job"
    forget()
    presses.tell(Press(17, "press"))
    assert len(heard) == 2


def test_nothing_happens_before_the_finger_leaves(pins, service, monkeypatch):
    monkeypatch.setattr(buttons, "STUCK_AFTER_S", 0.5)  # closing waits for a hold to end
    with ButtonFrontend((PORTRAIT,), service, pins):
        pins.pin(17).drive_low()
    assert service.jobs() == []


def test_leaning_on_the_button_is_no_press(pins, service, monkeypatch):
    monkeypatch.setattr(buttons, "STUCK_AFTER_S", 0.05)
    with ButtonFrontend((PORTRAIT,), service, pins) as frontend:
        pins.pin(17).drive_low()
        wait_for(lambda: frontend._wired[17]._was_held, "the hold is noticed")
        pins.pin(17).drive_high()
        press(pins, 17)
    assert len(service.jobs()) == 1


def test_random_prompts_come_from_the_list():
    picker = PromptPicker(("a", "b", "c"), "random", random.Random(3))
    assert {picker.pick() for _ in range(100)} == {"a", "b", "c"}


def test_the_led_follows_the_job(pins, service, queue):
    led = pins.pin(27)
    with ButtonFrontend((PORTRAIT,), service, pins) as frontend:
        button = frontend._wired[17]
        press(pins, 17)
        wait_for(lambda: button._mode == LedMode.WAITING, "the LED blinks slowly")
        job = queue.claim()
        service.report_step(job.id, 0, 4)
        wait_for(lambda: button._mode == LedMode.WORKING and led.state, "the LED is on")
        queue.finish(job, picture="x.png", seed=1, seconds=1.0)
        service.announce_finished()
        wait_for(lambda: button._mode == LedMode.OFF and not led.state, "the LED is off")


def test_the_led_blinks_on_failure_and_then_rests(pins, service, queue, monkeypatch):
    monkeypatch.setattr(buttons, "FAILURE_BLINK_S", 0.5)
    with ButtonFrontend((PORTRAIT,), service, pins) as frontend:
        press(pins, 17)
        wait_for(lambda: service.jobs(), "the job")
        pins.pin(27).clear_states()
        queue.fail(queue.claim(), "engine_failed", "a graph failed")
        service.announce_finished()
        wait_for(lambda: len(pins.pin(27).states) > 4, "the LED blinks fast")
        wait_for(lambda: frontend._wired[17]._mode == LedMode.OFF, "the LED rests")
        assert not pins.pin(27).state


def test_a_refused_press_blinks_and_harms_nothing(pins, service, caplog):
    with ButtonFrontend((PORTRAIT,), service, pins) as frontend:
        for _ in range(4):
            press(pins, 17)
        wait_for(lambda: frontend._wired[17]._mode == LedMode.FAILURE, "the LED blinks fast")
    assert len(service.jobs()) == 3
    assert "queue.max_jobs is 3" in caplog.text


def test_other_jobs_do_not_touch_the_led(pins, service):
    with ButtonFrontend((PORTRAIT,), service, pins) as frontend:
        service.submit(JobRequest(id="a1", prompt="x", source="mqtt"))
        service.submit(JobRequest(id="a2", prompt="x", source="button:99"))
        press(pins, 17)
        wait_for(lambda: len(service.jobs()) == 3, "the press")
        assert set(frontend._jobs[17]._states) <= {service.jobs()[-1].id}


def test_jobs_from_before_a_restart_have_their_led(pins, service):
    service.submit(JobRequest(id="a1", prompt="x", source="button:17"))
    with ButtonFrontend((PORTRAIT,), service, pins) as frontend:
        wait_for(lambda: frontend._wired[17]._mode == LedMode.WAITING, "the LED blinks slowly")


def test_closing_twice_and_closing_unstarted_is_fine(pins, service):
    frontend = ButtonFrontend((PORTRAIT,), service, pins)
    frontend.close()
    frontend.start()
    frontend.close()
    frontend.close()
    ButtonFrontend((PORTRAIT,), service, pins).__enter__().close()  # the pins are free again


def test_a_pin_used_twice_is_named_and_the_other_button_works(pins, service, caplog):
    clash = FLOWER.model_copy(update={"led": 17})
    with ButtonFrontend((PORTRAIT, clash), service, pins) as frontend:
        press(pins, 17)
    assert "GPIO22" in frontend.problems[0] and "GPIO22" in caplog.text
    assert [job.request.source for job in service.jobs()] == ["button:17"]


def test_a_machine_without_pins_says_what_is_missing(service, monkeypatch, tmp_path):
    monkeypatch.setenv("GPIOZERO_PIN_FACTORY", "no_such_library")
    frontend = ButtonFrontend((PORTRAIT,), service, run_dir=tmp_path / "run")
    with pytest.raises(PinsError, match=r"gpiochip|no_such_library"):
        frontend.start()
    frontend.close()


def test_a_missing_library_names_the_extra():
    assert "edgegen[gpio]" in buttons.why_no_pins(ImportError("No module named 'lgpio'"))


def test_led_mode_over_time():
    jobs = ButtonJobs()
    assert jobs.led_mode(0) == LedMode.OFF
    jobs.note("a", "queued", 0)
    jobs.note("b", "running", 0)
    assert jobs.led_mode(1) == LedMode.WORKING
    jobs.note("b", "failed", 2)
    assert jobs.led_mode(4.9) == LedMode.FAILURE
    assert jobs.led_mode(5.1) == LedMode.WAITING
    jobs.note("a", "cancelled", 6)
    assert jobs.led_mode(6) == LedMode.OFF


@pytest.mark.parametrize(
    ("source", "pin"), [("button:17", 17), ("mqtt", -1), ("button:x", -1), ("button:-1", -1), ("button:", -1)]
)
def test_pin_of(source, pin):
    assert buttons.pin_of(source) == pin


def store(folder: Path, name: str = "portrait", words: str = "%prompt% in %style%") -> WorkflowFolder:
    folder.mkdir(exist_ok=True)
    nodes = text_to_image_graph(steps=2, seed="%seed%")
    nodes["6"]["inputs"]["text"] = words
    (folder / f"{name}.json").write_text(json.dumps(nodes))
    return WorkflowFolder(folder)


INK = ButtonSettings(
    pin=5, prompts=("a fox", "an owl"), order="next", led=6, workflow="portrait", values={"style": "ink"}
)


def test_a_press_runs_a_stored_workflow_filled_in(pins, service, tmp_path):
    stored = store(tmp_path / "workflows")
    store(tmp_path / "workflows", "plain", "a bear")
    plain = ButtonSettings(pin=22, workflow="plain")
    with ButtonFrontend((INK, plain), service, pins, read_stored=stored.read):
        for number in (5, 5, 22):
            press(pins, number)
    requests = [job.request for job in service.jobs()]
    texts = [json.loads(request.workflow)["6"]["inputs"]["text"] for request in requests]
    assert texts == ["a fox in ink", "an owl in ink", "a bear"]
    assert [(r.prompt, r.workflow_name, r.source) for r in requests] == [
        ("a fox", "portrait", "button:5"),
        ("an owl", "portrait", "button:5"),
        ("", "plain", "button:22"),
    ]
    seeds = {json.loads(request.workflow)["3"]["inputs"]["seed"] for request in requests}
    assert len(seeds) == 3, "drawn anew for every press"


def test_a_workflow_that_is_gone_fails_the_press_not_the_button(pins, service, tmp_path, caplog):
    stored = store(tmp_path / "workflows")
    with ButtonFrontend((INK,), service, pins, read_stored=stored.read):
        (tmp_path / "workflows" / "portrait.json").rename(tmp_path / "away.json")
        press(pins, 5)
        wait_for(lambda: 'no workflow "portrait" is stored here' in caplog.text, "it is told")
        wait_for(lambda: pins.pin(6).state, "the LED blinks")
        (tmp_path / "away.json").rename(tmp_path / "workflows" / "portrait.json")
        press(pins, 5)
    assert [job.request.prompt for job in service.jobs()] == ["an owl"]


@pytest.mark.parametrize(
    ("button", "said"),
    [
        (INK.model_copy(update={"workflow": "potrait"}), "did you mean portrait?"),
        (INK.model_copy(update={"values": {}}), "the placeholder %style% has no value"),
        (INK.model_copy(update={"values": {"style": 1, "hat": 2}}), "no placeholder %hat%"),
        (INK.model_copy(update={"prompts": ()}), "the placeholder %prompt% has no value"),
        (INK.model_copy(update={"prompts": ("x" * 3000,)}), "has 3000 characters"),
        (INK.model_copy(update={"steps": 4}), "no placeholder %steps%"),
        (INK, None),
    ],
)
def test_a_configuration_says_what_is_wrong_with_a_buttons_workflow(tmp_path, button, said):
    stored = store(tmp_path / "workflows")
    settings = Settings(buttons=(FLOWER, button))
    found = [(key, str(problem)) for key, problem in button_problems(settings, stored.read)]
    assert [key for key, _ in found] == (["buttons.1.workflow"] if said else [])
    assert said is None or said in found[0][1]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pin": 5}, "a button needs prompts, or a workflow"),
        ({"pin": 5, "prompts": ("a",), "values": {"a": 1}}, "this button has none"),
        ({"pin": 5, "workflow": "../etc/passwd"}, "String should match pattern"),
    ],
)
def test_buttons_that_make_no_sense_are_refused(fields, said):
    with pytest.raises(ValidationError, match=said):
        ButtonSettings(**fields)
