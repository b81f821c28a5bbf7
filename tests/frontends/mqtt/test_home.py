"""Home Assistant's side of the broker: the entities are announced and really work."""

from __future__ import annotations

import json

import pytest

from edgegen import __version__
from edgegen.frontends.mqtt import Surroundings
from edgegen.jobs.job import JobState
from edgegen.jobs.presses import Press, Presses
from edgegen.settings import StyleSettings
from tests.support import wait_for

CONFIG = "homeassistant/device/edgegen_shop/config"
BIRTH = "homeassistant/status"
STATE = "edgegen/shop/home/state"


@pytest.fixture
def assistant(phone):
    """A phone that listens as Home Assistant does, and has found the device."""
    phone.follow("homeassistant/#")
    wait_for(lambda: phone.on(CONFIG), "the device is announced")
    return phone


def parts(assistant) -> dict:
    return json.loads(assistant.on(CONFIG)[-1].payload)["components"]


def state(assistant) -> dict:
    heard = assistant.on(STATE)
    return json.loads(heard[-1].payload) if heard else {}


def wait_state(assistant, **wanted) -> dict:
    wait_for(lambda: wanted.items() <= state(assistant).items(), f"{wanted}; told {state(assistant)}")
    return state(assistant)


def press(assistant, key: str, at: float | None = None) -> None:
    """As Home Assistant does; with the moment that its template adds, if one is given."""
    part = parts(assistant)[key]
    assert part["command_template"] == "{{ value }} {{ now().timestamp() }}"
    assistant.send(part["command_topic"], part["payload_press"] if at is None else f"PRESS {at}")


def set_to(assistant, key: str, value: str) -> None:
    assistant.send(parts(assistant)[key]["command_topic"], value)


def test_discovery_and_state_are_retained(assistant):
    assistant.follow("homeassistant/#")  # once more: what is retained is sent again, and says so
    wait_for(lambda: any(message.retain for message in assistant.on(CONFIG)), "the announcement is retained")
    told = wait_state(assistant, queue=0)
    assert told == {
        "prompt": "", "steps": None, "queue": 0, "eta_s": None, "last_error": None, "temperature": 51.5,
        "style": "No style",
    }  # fmt: skip
    version = json.loads(assistant.on("edgegen/shop/home/update")[0].payload)
    assert version == {"installed_version": __version__}, "which version is the newest, nobody here can know"
    topics = {part.get("state_topic") for part in parts(assistant).values()} - {None}
    assert topics == {STATE, "edgegen/shop/home/update"}
    for part in parts(assistant).values():
        if part.get("state_topic") == STATE:
            key = part["value_template"].removeprefix("{{ value_json.").removesuffix(" }}")
            assert key in told, "every entity finds its value"


def test_a_prompt_and_a_press_make_a_job_and_a_picture(assistant, house):
    set_to(assistant, "prompt", "a red apple")
    set_to(assistant, "steps", "7")
    wait_state(assistant, prompt="a red apple", steps=7)
    press(assistant, "generate")
    wait_state(assistant, queue=1)
    (job,) = house.service.jobs()
    asked = (job.request.prompt, job.request.steps, job.request.source)
    assert asked == ("a red apple", 7, "home_assistant")
    house.run_next()
    wait_state(assistant, queue=0, eta_s=None)
    wait_for(lambda: assistant.on(parts(assistant)["image"]["image_topic"]), "the picture arrives")


def test_cancel_takes_the_next_job(assistant, house):
    press(assistant, "cancel")  # nothing to cancel
    set_to(assistant, "prompt", "a red apple")
    press(assistant, "generate")
    wait_state(assistant, queue=1)
    press(assistant, "cancel")
    wait_state(assistant, queue=0)
    assert [job.state for job in house.service.jobs()] == [JobState.CANCELLED]


def test_a_press_that_is_delivered_twice_counts_once(assistant, house):
    set_to(assistant, "prompt", "a red apple")
    for at in (1732498273.25, 1732498273.25, 1732498274.5):
        press(assistant, "generate", at)
    wait_state(assistant, queue=2)
    for at in (1732498280.25, 1732498280.25):
        press(assistant, "cancel", at)
    set_to(assistant, "prompt", "settled")
    wait_state(assistant, prompt="settled", queue=1)


def test_a_style_is_added_to_the_prompt_and_outlives_a_restart(broker, make_house, make_phone):
    styles = (StyleSettings(name="ink", suffix="ink drawing", negative_prompt="colour"),)
    house = make_house(broker.port, around=Surroundings(styles))
    assistant = make_phone(broker.port)
    assistant.follow("homeassistant/#")
    wait_for(lambda: assistant.on(CONFIG), "the device is announced")
    assert parts(assistant)["style"]["options"] == ["No style", "ink"]
    set_to(assistant, "prompt", "a cat")
    set_to(assistant, "style", "oil")
    wait_for(lambda: "is none of: No style, ink" in (state(assistant)["last_error"] or ""), "the refusal")
    set_to(assistant, "style", "ink")
    wait_state(assistant, style="ink")
    press(assistant, "generate")
    wait_state(assistant, queue=1)
    (job,) = house.service.jobs()
    assert (job.request.prompt, job.request.negative_prompt) == ("a cat, ink drawing", "colour")
    house.close()
    make_house(broker.port)  # the style is no longer configured
    wait_state(assistant, style="No style", prompt="a cat")


def test_presses_of_real_buttons_are_events(broker, make_house, make_phone):
    presses = Presses()
    house = make_house(broker.port, around=Surroundings((), (17, 22), presses))
    assistant = make_phone(broker.port)
    assistant.follow("homeassistant/#")
    wait_for(lambda: assistant.on(CONFIG), "the device is announced")
    topic = parts(assistant)["button_17"]["state_topic"]
    presses.tell(Press(17, "press"))
    presses.tell(Press(17, "hold"))
    wait_for(lambda: len(assistant.on(topic)) == 2, "both events")
    heard = assistant.on(topic)
    assert [json.loads(m.payload) for m in heard] == [{"event_type": "press"}, {"event_type": "hold"}]
    assert not any(m.retain for m in heard)
    house.close()
    presses.tell(Press(17, "press"))  # nobody listens any more, and nothing breaks
    make_house(broker.port, around=Surroundings((), (17,), presses))
    wait_for(
        lambda: parts(assistant)["button_22"] == {"platform": "event"}, "the button that went is removed"
    )


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("generate", "x" * 201, "a press has 201 bytes"),
        ("prompt", "x" * 256, "has 256 characters; at most 255"),
        ("steps", "0", "must be a whole number from 1 to 100"),
        ("steps", "2.5", "must be a whole number"),
        ("steps", "nan", "must be a whole number"),
        ("generate", "PRESS", "prompt: is empty"),
    ],
)
def test_what_cannot_be_done_is_the_last_error(assistant, house, key, value, why):
    assistant.send(parts(assistant)[key]["command_topic"], value)
    wait_for(lambda: why in (state(assistant).get("last_error") or ""), why)
    assert house.service.jobs() == []


def test_a_failed_job_is_the_last_error(assistant, house):
    set_to(assistant, "prompt", "a red apple")
    press(assistant, "generate")
    wait_state(assistant, queue=1)
    house.queue.fail(house.queue.claim(), "engine_failed", "y" * 300)
    house.service.announce_finished()
    wait_state(assistant, last_error="y" * 255, queue=0)


def test_retained_presses_are_refused(assistant, house):
    set_to(assistant, "prompt", "a red apple")
    assistant.send("edgegen/shop/home/generate/set", "PRESS", retain=True)
    wait_for(lambda: "retained" in (state(assistant).get("last_error") or ""), "the refusal")
    assert house.service.jobs() == []


def test_what_was_set_outlives_a_restart(assistant, house, make_house, broker):
    set_to(assistant, "prompt", "ein Äpfelchen")
    set_to(assistant, "steps", "3")
    wait_state(assistant, prompt="ein Äpfelchen", steps=3)
    house.close()
    before = len(assistant.on(STATE))
    make_house(broker.port)
    wait_for(lambda: len(assistant.on(STATE)) > before, "the state is told again")
    wait_state(assistant, prompt="ein Äpfelchen", steps=3)


def test_everything_is_told_again_when_home_assistant_or_the_broker_has_started(assistant, house, broker):
    topics = (CONFIG, STATE, "edgegen/shop/availability")

    def told_live() -> dict[str, int]:
        return {topic: sum(not m.retain for m in assistant.on(topic)) for topic in topics}

    for start in (lambda: assistant.send(BIRTH, "online"), lambda: (broker.stop(), broker.start())):
        before = told_live()
        start()
        for topic in topics:
            wait_for(lambda t=topic, b=before: told_live()[t] > b[t], f"{topic} again")
    set_to(assistant, "prompt", "settled")
    wait_state(assistant, prompt="settled")
    before = told_live()
    assistant.send(BIRTH, "offline")
    set_to(assistant, "prompt", "still here")
    wait_state(assistant, prompt="still here")
    assert told_live()[CONFIG] == before[CONFIG]


def test_switched_off_there_is_nothing(broker, make_house, make_phone):
    make_house(broker.port, home_assistant=False)
    phone = make_phone(broker.port)
    phone.follow("homeassistant/#")
    phone.send("edgegen/shop/home/generate/set", "PRESS")
    phone.send("edgegen/shop/generate", {"id": "a", "prompt": "a red apple"})
    phone.wait_status(id="a", state="queued")
    assert phone.on(CONFIG) == []
    assert phone.on(STATE) == []


def test_another_prefix_and_no_temperature(broker, make_house, make_phone):
    phone = make_phone(broker.port)
    phone.follow("ha/#")
    house = make_house(broker.port, wait=False, home_assistant_prefix="ha")
    house.temperature = None
    config = "ha/device/edgegen_shop/config"
    phone.send("ha/status", "online")

    def is_unknown() -> bool:
        heard = phone.on(config)
        return bool(heard) and "temperature" not in json.loads(heard[-1].payload)["components"]

    wait_for(is_unknown, "no temperature is announced")
