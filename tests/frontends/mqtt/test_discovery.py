"""The discovery payload against what Home Assistant's MQTT integration takes.

The tables are the schemas of its Core 2025.10 and later: unknown keys are dropped there without a word, so
here they are errors.
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
}
OPTIONAL = {
    "image": {"content_type"},
    "text": {"state_topic", "value_template", "min", "max", "mode", "pattern"},
    "button": {"payload_press", "device_class"},
    "number": {"state_topic", "value_template", "min", "max", "step", "mode", "unit_of_measurement"},
    "sensor": {"value_template", "unit_of_measurement", "device_class", "state_class"},
    "update": {"value_template", "title", "device_class"},
}
ROOT = {"device", "origin", "components", "availability_topic", "qos"}
DEVICE = {"identifiers", "name", "manufacturer", "model", "sw_version"}
TOPICS = Topics("edgegen", "Kitchen-2")


@pytest.fixture(params=[True, False])
def payload(request) -> dict:
    return discovery(TOPICS, "1.2.3", "image/webp", 100, 1000, has_temperature=request.param)


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
        **temperature,
    }


def test_limits_and_places(payload):
    parts = payload["components"]
    assert parts["prompt"]["max"] == 255
    assert (parts["steps"]["min"], parts["steps"]["max"]) == (1, 100)
    assert parts["image"]["image_topic"] == TOPICS.last_image
    assert parts["image"]["content_type"] == "image/webp"
    topics = [part["command_topic"] for part in parts.values() if "command_topic" in part]
    assert len(set(topics)) == 4
    assert all(TOPICS.response_problem(topic) for topic in topics), "an answer must not press a button"


def test_a_shorter_limit_of_ours_wins():
    parts = discovery(TOPICS, "1", "image/png", 8, 40, has_temperature=False)["components"]
    assert (parts["prompt"]["max"], parts["steps"]["max"]) == (40, 8)


def test_ids_hold_nothing_that_entity_ids_may_not():
    assert device_id(Topics("art/gallery", "Hall-B_3")) == "art_gallery_hall_b_3"
