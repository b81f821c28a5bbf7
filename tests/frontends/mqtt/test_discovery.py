"""The discovery payload against what Home Assistant's MQTT integration takes.

The tables are the schemas of github.com/home-assistant/core, homeassistant/components/mqtt:
MQTT_ENTITY_COMMON_SCHEMA and DEVICE_DISCOVERY_SCHEMA of schemas.py (2026: with `default_entity_id`, without
`object_id`) and DISCOVERY_SCHEMA of text.py, select.py, button.py, number.py, sensor.py, image.py, event.py
and update.py. Unknown keys are dropped there without a word (extra=REMOVE_EXTRA), so here they are errors.
`tools/home_schema.py` asks the schemas themselves.
"""

from __future__ import annotations

import re

import pytest

from edgegen.frontends.mqtt.discovery import device_id, discovery, discovery_topic
from edgegen.frontends.mqtt.topics import Topics

COMMON = {"platform", "unique_id", "default_entity_id", "name", "icon", "entity_category"}
REQUIRED = {
    "image": {"image_topic"},
    "text": {"command_topic"},
    "button": {"command_topic"},
    "number": {"command_topic"},
    "sensor": {"state_topic"},
    "update": {"state_topic"},
    "select": {"command_topic", "options"},
    "event": {"state_topic", "event_types"},
}
OPTIONAL = {
    "image": {"content_type"},
    "text": {"state_topic", "value_template", "min", "max", "mode", "pattern"},
    "button": {"payload_press", "device_class", "command_template"},
    "select": {"state_topic", "value_template", "command_template"},
    "event": {"value_template", "device_class"},
    "number": {"state_topic", "value_template", "min", "max", "step", "mode", "unit_of_measurement"},
    "sensor": {"value_template", "unit_of_measurement", "device_class", "state_class"},
    "update": {"value_template", "title", "device_class", "latest_version_topic", "latest_version_template"},
}
ROOT = {"device", "origin", "components", "availability_topic", "qos"}
DEVICE = {"identifiers", "name", "manufacturer", "model", "sw_version"}
TOPICS = Topics("edgegen", "Kitchen-2")


@pytest.fixture(params=[True, False])
def payload(request) -> dict:
    return discovery(TOPICS, "1.2.3", "image/webp", 100, 1000, request.param, ["ink"], [17, 22])


def test_the_device_and_its_origin_are_named(payload):
    assert payload.keys() == ROOT
    assert payload["device"].keys() == DEVICE
    assert payload["device"]["identifiers"] == ["edgegen_kitchen_2"]
    assert payload["origin"] == {"name": "edgegen", "sw_version": "1.2.3"}
    assert payload["availability_topic"] == "edgegen/Kitchen-2/availability"
    assert discovery_topic("homeassistant", TOPICS) == "homeassistant/device/edgegen_kitchen_2/config"


def test_every_component_has_what_its_platform_needs_and_nothing_unknown(payload):
    for key, part in payload["components"].items():
        platform = part["platform"]
        assert part.keys() >= REQUIRED[platform] | {"platform", "unique_id"}, key
        assert part.keys() <= COMMON | REQUIRED[platform] | OPTIONAL[platform], key
        assert re.fullmatch(rf"{platform}\.[a-z0-9_]+", part["default_entity_id"]), key
        assert part.get("entity_category") in (None, "config", "diagnostic")
    ids = [part["unique_id"] for part in payload["components"].values()]
    assert len(set(ids)) == len(ids)


def test_all_entities_are_there(payload):
    found = {key: part["platform"] for key, part in payload["components"].items()}
    temperature = {"temperature": "sensor"} if "temperature" in found else {}
    assert found == {
        "image": "image",
        "prompt": "text",
        "generate": "button",
        "cancel": "button",
        "steps": "number",
        "queue": "sensor",
        "eta_s": "sensor",
        "last_error": "sensor",
        "update": "update",
        "style": "select",
        "button_17": "event",
        "button_22": "event",
        **temperature,
    }


def test_limits_and_places(payload):
    parts = payload["components"]
    assert parts["prompt"]["max"] == 255
    assert (parts["steps"]["min"], parts["steps"]["max"]) == (1, 100)
    assert parts["image"]["image_topic"] == TOPICS.last_image
    assert parts["image"]["content_type"] == "image/webp"
    topics = [part["command_topic"] for part in parts.values() if "command_topic" in part]
    assert len(set(topics)) == 5
    assert all(TOPICS.response_problem(topic) for topic in topics), "an answer must not press a button"


def test_styles_and_buttons(payload):
    parts = payload["components"]
    assert parts["style"]["options"] == ["No style", "ink"]
    assert "none" not in map(str.lower, parts["style"]["options"]), "select.py takes that state for unknown"
    assert parts["button_17"]["event_types"] == ["press", "hold"]
    assert parts["button_17"]["device_class"] == "button"  # EventDeviceClass: doorbell, button, motion
    assert parts["button_17"]["state_topic"] == "edgegen/Kitchen-2/home/button/17"
    assert parts["update"]["latest_version_topic"] == "edgegen/fleet/latest_version"
    assert TOPICS.response_problem("edgegen/fleet/latest_version"), "an answer must not tell versions"


def test_a_button_that_is_gone_is_removed():
    parts = discovery(TOPICS, "1", "image/png", 8, 40, False, (), (17,), {22})["components"]
    assert parts["button_22"] == {"platform": "event"}, "a platform alone removes, says the documentation"
    assert parts["button_17"].keys() > {"platform"}


def test_a_shorter_limit_of_ours_wins():
    parts = discovery(TOPICS, "1", "image/png", 8, 40, has_temperature=False)["components"]
    assert (parts["prompt"]["max"], parts["steps"]["max"]) == (40, 8)


def test_ids_hold_nothing_that_entity_ids_may_not():
    assert device_id(Topics("art/gallery", "Hall-B_3")) == "art_gallery_hall_b_3"
