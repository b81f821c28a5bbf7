"""Checks the discovery payload against Home Assistant's own schemas, as its MQTT integration applies them.

.venv/dev/bin/python -m tools.home_schema payload | HA/bin/python tools/home_schema.py check

`payload` prints what a device announces, with and without a thermometer, styles, buttons and gone buttons.
`check` runs in an environment that holds the package `homeassistant` and what its module imports; it reads
those payloads and fails when one is refused, or when a key of it is dropped (unknown keys are, silently).
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from typing import Any

OWN = {"device", "origin", "platform"}  # not the platforms': looked at on their own


def payloads() -> list[dict[str, Any]]:
    """Everything that a device may announce."""
    from edgegen.frontends.mqtt.discovery import discovery
    from edgegen.frontends.mqtt.topics import Topics

    topics = Topics("edgegen", "Kitchen-2")
    return [
        discovery(topics, "1.2.3", kind, 100, 1000, has_temperature, styles, pins, gone)
        for kind in ("image/webp", "image/jpeg", "image/png")
        for has_temperature in (True, False)
        for styles, pins, gone in (((), (), ()), (("ink", "oil"), (17, 22), (27,)))
    ]


def check(payload: dict[str, Any]) -> list[str]:
    """What Home Assistant would refuse or drop; empty when it takes all of it."""
    from homeassistant.components.mqtt.schemas import DEVICE_DISCOVERY_SCHEMA, SHARED_OPTIONS

    taken = DEVICE_DISCOVERY_SCHEMA(payload)
    found = [f"{key} is dropped" for key in payload.keys() - taken.keys()]
    shared = {key: taken[key] for key in (*SHARED_OPTIONS, "qos", "encoding") if key in taken}
    for name, part in payload["components"].items():
        if part.keys() == {"platform"}:
            continue  # removes the entity
        module = importlib.import_module(f"homeassistant.components.mqtt.{part['platform']}")
        own = {key: value for key, value in part.items() if key != "platform"}
        config = module.DISCOVERY_SCHEMA(
            {**shared, "device": taken["device"], "origin": taken["origin"], **own}
        )
        found += [f"{name}.{key} is dropped" for key in own.keys() - config.keys() - OWN]
    return found


async def check_all(given: list[dict[str, Any]]) -> list[str]:
    """Within an event loop and with a core, as templates are looked at by it."""
    from homeassistant.core import HomeAssistant

    core = HomeAssistant(".")
    found = [trouble for payload in given for trouble in check(payload)]
    await core.async_stop(force=True)
    return found


def main() -> int:
    if sys.argv[1:] == ["payload"]:
        print(json.dumps(payloads()))
        return 0
    from homeassistant.const import __version__

    given = json.load(sys.stdin)
    found = asyncio.run(check_all(given))
    entities = {name for payload in given for name in payload["components"]}
    counts = f"{len(given)} payloads, {len(entities)} entities"
    print(f"Home Assistant {__version__}: {counts}: {found or 'all taken'}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
