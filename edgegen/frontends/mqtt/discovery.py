"""What Home Assistant is told of this device: one retained message that sets up all entities. Pure.

Source: Home Assistant's MQTT integration, device discovery; `default_entity_id` replaces `object_id`, which
its Core 2026.4 no longer takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from ...settings import NO_STYLE
from .topics import Topics

MAX_TEXT = 255  # a state in Home Assistant is no longer
PRESS = "PRESS"
EVENT_TYPES = ("press", "hold")
ONLINE = "online"


def device_id(topics: Topics) -> str:
    """`edgegen_kitchen`: letters, digits and _ only, as entity ids need them."""
    return re.sub(r"[^a-z0-9_]+", "_", f"{topics.base}_{topics.node}".lower())


def discovery_topic(prefix: str, topics: Topics) -> str:
    return f"{prefix}/device/{device_id(topics)}/config"


def birth_topic(prefix: str) -> str:
    """Where Home Assistant says `online` when it has started."""
    return f"{prefix}/status"


def discovery(
    topics: Topics,
    version: str,
    image_type: str,
    max_steps: int,
    max_prompt: int,
    has_temperature: bool,
    styles: Sequence[str] = (),
    pins: Sequence[int] = (),
    gone_pins: Iterable[int] = (),
) -> dict[str, Any]:
    """The discovery payload.

    Args:
        image_type: media type of `last/image`.
        max_steps, max_prompt: this device's limits.
        has_temperature: whether the CPU's temperature can be read here.
        styles: names to choose from. pins: BCM numbers of the buttons.
        gone_pins: of buttons announced earlier; their entities go.
    """
    components = {
        **_controls(topics, max_steps, max_prompt),
        "style": _style(topics, styles),
        **_sensors(topics, has_temperature),
        **{f"button_{pin}": _press_event(topics, pin) for pin in pins},
        "image": {
            "platform": "image",
            "name": "Last picture",
            "image_topic": topics.last_image,
            "content_type": image_type,
        },
        "update": {
            "platform": "update",
            "name": "Version",
            "title": "edgegen",
            "state_topic": topics.home_update,
            "latest_version_topic": topics.latest_version,
            "entity_category": "diagnostic",
        },
    }
    return {
        "device": {
            "identifiers": [device_id(topics)],
            "name": f"edgegen {topics.node}",
            "manufacturer": "edgegen",
            "model": "words to pictures",
            "sw_version": version,
        },
        "origin": {"name": "edgegen", "sw_version": version},
        "availability_topic": topics.availability,
        "qos": 1,
        "components": {
            **{key: _identified(topics, key, part) for key, part in components.items()},
            **{f"button_{pin}": {"platform": "event"} for pin in gone_pins},  # a bare platform removes it
        },
    }


def _identified(topics: Topics, key: str, part: dict[str, Any]) -> dict[str, Any]:
    own = f"{device_id(topics)}_{key}"
    return {**part, "unique_id": own, "default_entity_id": f"{part['platform']}.{own}"}


def _controls(topics: Topics, max_steps: int, max_prompt: int) -> dict[str, dict[str, Any]]:
    return {
        "prompt": {
            "platform": "text",
            "name": "Prompt",
            "command_topic": topics.home_command("prompt"),
            "state_topic": topics.home_state,
            "value_template": "{{ value_json.prompt }}",
            "max": min(MAX_TEXT, max_prompt),
            "icon": "mdi:text-box-edit",
        },
        "steps": {
            "platform": "number",
            "name": "Steps",
            "command_topic": topics.home_command("steps"),
            "state_topic": topics.home_state,
            "value_template": "{{ value_json.steps }}",
            "min": 1,
            "max": max_steps,
            "step": 1,
            "mode": "box",
            "entity_category": "config",
            "icon": "mdi:stairs",
        },
        "generate": _button(topics, "generate", "Generate", "mdi:creation"),
        "cancel": _button(topics, "cancel", "Cancel", "mdi:cancel"),
    }


def _style(topics: Topics, styles: Sequence[str]) -> dict[str, Any]:
    return {
        "platform": "select",
        "name": "Style",
        "command_topic": topics.home_command("style"),
        "state_topic": topics.home_state,
        "value_template": "{{ value_json.style }}",
        "options": [NO_STYLE, *styles],
        "icon": "mdi:palette",
    }


def _press_event(topics: Topics, pin: int) -> dict[str, Any]:
    return {
        "platform": "event",
        "name": f"Button GPIO{pin}",
        "state_topic": topics.home_button(pin),
        "event_types": list(EVENT_TYPES),
        "device_class": "button",
    }


def _button(topics: Topics, key: str, name: str, icon: str) -> dict[str, Any]:
    return {
        "platform": "button",
        "name": name,
        "command_topic": topics.home_command(key),
        "payload_press": PRESS,
        # Every press says something else, so that one that is delivered twice is known as one.
        "command_template": "{{ value }} {{ now().timestamp() }}",
        "icon": icon,
    }


def _sensors(topics: Topics, has_temperature: bool) -> dict[str, dict[str, Any]]:
    sensors: dict[str, dict[str, Any]] = {
        "queue": {"name": "Queue", "unit_of_measurement": "jobs", "state_class": "measurement"},
        "eta_s": {"name": "Time left", "unit_of_measurement": "s", "device_class": "duration"},
        "last_error": {"name": "Last error", "entity_category": "diagnostic", "icon": "mdi:alert-circle"},
    }
    if has_temperature:
        sensors["temperature"] = {
            "name": "Temperature",
            "unit_of_measurement": "°C",
            "device_class": "temperature",
            "state_class": "measurement",
            "entity_category": "diagnostic",
        }
    where = {"platform": "sensor", "state_topic": topics.home_state}
    return {
        key: {**where, "value_template": f"{{{{ value_json.{key} }}}}", **part}
        for key, part in sensors.items()
    }
