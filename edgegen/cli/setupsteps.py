"""The steps of `edgegen setup`: each asks about one part of the device and checks the answers at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgegen.errors import ConfigError, EdgegenError, PackError

from .ask import NOTHING, ask, ask_choice, ask_lines, ask_yes, paragraph
from .checks import Check
from .doctor import guarded, print_check
from .machine import Roots
from .output import megabytes, note, say
from .setupkeys import ask_key, set_key

if TYPE_CHECKING:
    from edgegen.config.draft import Draft

    from .setupsecret import Secret

PLAIN_PORT, TLS_PORT = 1883, 8883
BUSY_PINS = {0: "HAT EEPROM", 1: "HAT EEPROM", 2: "I2C", 3: "I2C", 14: "serial console", 15: "serial console"}


def node_step(draft: Draft, secret: Secret) -> None:  # noqa: ARG001 - every step takes the same
    paragraph("Its name is part of its MQTT topics, so every device needs one of its own.")
    ask_key(draft, "node.name", "Name")


def broker_step(draft: Draft, secret: Secret) -> None:
    mqtt = draft.settings.mqtt
    is_on = ask_yes("Take jobs from an MQTT broker?", mqtt.enabled, "Prompts then arrive over MQTT.")
    set_key(draft, "mqtt.enabled", is_on)
    while is_on:
        ask_broker(draft, secret)
        if broker_answers(draft, secret) or not ask_yes("Change the answers?", True):
            break
    if is_on:
        known = draft.settings.mqtt.home_assistant
        meaning = "It finds the device by itself then."
        set_key(draft, "mqtt.home_assistant", ask_yes("Announce it to Home Assistant?", known, meaning))


def ask_broker(draft: Draft, secret: Secret) -> None:
    ask_key(draft, "mqtt.host", "Host")
    was_tls = draft.settings.mqtt.tls
    is_tls = ask_yes("TLS?", was_tls, "Encrypted, with the broker's certificate checked.")
    set_key(draft, "mqtt.tls", is_tls)
    usual = {False: PLAIN_PORT, True: TLS_PORT}
    if is_tls != was_tls and draft.settings.mqtt.port == usual[was_tls]:
        set_key(draft, "mqtt.port", usual[is_tls])
    if is_tls:
        ask_tls_files(draft)
    ask_key(draft, "mqtt.port", "Port")
    ask_key(draft, "mqtt.username", "User", can_be_empty=True)
    if draft.settings.mqtt.username:
        kept = draft.settings.mqtt.password_file
        hint = "Enter keeps the one there is" if kept else "Enter for none"
        if password := ask(f"Password, not shown ({hint})", str, hide=True):
            set_key(draft, "mqtt.password_file", str(secret.keep(password)))


def ask_tls_files(draft: Draft) -> None:
    """Whom we trust and who we are; the key is asked about only where there is a certificate."""
    from edgegen.config.tlsfiles import tls_problems

    ask_key(draft, "mqtt.ca_file", "File of the CA's certificate", can_be_empty=True)
    ask_key(draft, "mqtt.cert_file", "File of this device's certificate", can_be_empty=True)
    if draft.settings.mqtt.cert_file is None:
        set_key(draft, "mqtt.key_file", None)
        return
    ask_key(draft, "mqtt.key_file", "File of its key", can_be_empty=True)
    if draft.settings.mqtt.key_password_file or "is encrypted" in str(tls_problems(draft.settings.mqtt)):
        ask_key(draft, "mqtt.key_password_file", "File of the key's passphrase", can_be_empty=True)


def broker_answers(draft: Draft, secret: Secret) -> bool:
    """Really logs in, with the password that was just typed."""
    return told(broker_findings(draft, secret))


def broker_findings(draft: Draft, secret: Secret) -> list[Check]:
    """Certificates, then the login; one that must fail for its files is not tried."""
    from . import services

    mqtt = draft.settings.mqtt
    found = list(guarded("certificate", lambda: services.check_certificates(mqtt, time.time())))
    if all(check.state != "bad" for check in found):
        found += guarded("broker", lambda: [services.check_broker(mqtt, secret.typed_for(mqtt))])
    return found


def told(found: list[Check]) -> bool:
    """Prints the findings; whether none is bad."""
    for check in found:
        print_check(check)
    return all(check.state != "bad" for check in found)


def pack_step(draft: Draft, secret: Secret) -> None:  # noqa: ARG001
    from edgegen.config.files import pack_dirs
    from edgegen.pack import scan_packs

    packs = scan_packs(pack_dirs(draft.settings))[0]
    for number, pack in enumerate(packs, 1):
        d = pack.manifest.defaults
        size = f"{megabytes(pack.size_bytes)} MB"
        say(f"  {number}  {pack.name}: {d.width}x{d.height}, {d.steps} steps, {size}")

    def check(line: str) -> None:
        chosen = packs[int(line) - 1].name if line.isdecimal() and 0 < int(line) <= len(packs) else line
        set_key(draft, "engine.pack", chosen)
        if not told(pack_findings(draft)):
            raise PackError(f"{chosen}: choose another one, or install it again")

    ask(
        "Pack, by number or name",
        check,
        draft.settings.engine.pack,
        "What jobs are drawn with that name none.",
    )


def pack_findings(draft: Draft) -> list[Check]:
    """Its files against their hashes, and whether it fits into memory now."""
    from . import services

    finding, pack = services.check_pack(draft.settings)
    memory = lambda: [services.check_memory_mode(draft.settings.engine, pack, Roots())]  # noqa: E731
    return [finding, *(guarded("memory", memory) if pack else ())]


def buttons_step(draft: Draft, secret: Secret) -> None:  # noqa: ARG001
    paragraph("A button connects a GPIO pin (its BCM number) to ground; a press draws one of its prompts.")
    while True:
        buttons = draft.settings.buttons
        for number, button in enumerate(buttons, 1):
            led = f", LED on GPIO{button.led}" if button.led is not None else ""
            does = ", ".join(button.prompts) or "no prompts"
            runs = f" (workflow {button.workflow})" if button.workflow else ""
            say(f"  {number}  GPIO{button.pin}{led}: {does}{runs}")
        choices = {"a": "add a button", "n": "go on"} | ({"r": "remove one"} if buttons else {})
        done = {"a": add_button, "r": remove_button}.get(ask_choice("Buttons", choices, "n"))
        if done is None:
            break
        done(draft)
    if draft.settings.buttons:
        told(pin_findings(draft))


def tables(draft: Draft) -> list[dict[str, Any]]:
    return [button.model_dump(mode="json", exclude_defaults=True) for button in draft.settings.buttons]


def add_button(draft: Draft) -> None:
    known = tables(draft)
    button: dict[str, Any] = {"pin": None, "prompts": ["a red apple"]}

    def pin(name: str) -> Callable[[str], None]:
        def check(line: str) -> None:
            if name == "led" and line in ("", NOTHING):
                return
            number = int(line) if line.isdecimal() else line
            draft.take_buttons([*known, button | {name: number}])
            button[name] = number
            if number in BUSY_PINS:
                note(f"GPIO{number} is often taken by the {BUSY_PINS[number]}")

        return check

    ask("Pin of the button (0 to 27)", pin("pin"), meaning="The BCM number: 17 is the header's pin 11.")
    ask(f"Pin of its LED ({NOTHING} for none)", pin("led"), NOTHING)
    button["prompts"] = ask_lines("Prompt")
    draft.take_buttons([*known, button])


def remove_button(draft: Draft) -> None:
    known = tables(draft)

    def check(line: str) -> None:
        if not (line.isdecimal() and 0 < int(line) <= len(known)):
            raise EdgegenError(f"{line}: a number from 1 to {len(known)}")
        draft.take_buttons([button for i, button in enumerate(known, 1) if i != int(line)])

    ask("Which one", check)


def pin_findings(draft: Draft) -> list[Check]:
    from . import services

    runs = services.check_daemon(draft.settings.node)[1]
    return [services.check_pins(draft.settings.buttons, runs)]


def display_step(draft: Draft, secret: Secret) -> None:  # noqa: ARG001
    from .setupdisplay import ask_display

    ask_display(draft, Roots())
    if draft.settings.display.output != "off":
        told(display_findings(draft))


def display_findings(draft: Draft) -> list[Check]:
    from . import screens

    return list(screens.check_display(draft.settings, Roots()))


def all_findings(draft: Draft, secret: Secret) -> list[Check]:
    """What the steps check, at once: for answers that come from a file."""
    found = broker_findings(draft, secret)
    found += guarded("pack", lambda: pack_findings(draft))
    found += guarded("pins", lambda: pin_findings(draft))
    return found + list(guarded("display", lambda: display_findings(draft)))


def take_answers(draft: Draft, secret: Secret, answers: dict[str, Any]) -> None:
    """Answers laid out as the configuration is; `mqtt.password` is kept in a file of its own.

    Raises:
        ConfigError: every problem at once; the draft is as before.
    """
    from edgegen.config.tomltext import Change

    answers = {name: dict(part) if isinstance(part, dict) else part for name, part in answers.items()}
    mqtt = answers.get("mqtt")
    if isinstance(mqtt, dict) and (password := mqtt.pop("password", None)) is not None:
        mqtt["password_file"] = str(secret.keep(str(password)))
    buttons = answers.pop("buttons", None)
    if loose := [name for name, part in answers.items() if not isinstance(part, dict)]:
        raise ConfigError(f"{loose[0]}: answers stand in [sections], as in the configuration")
    draft.take(Change((name, key), value) for name, part in answers.items() for key, value in part.items())
    if isinstance(buttons, list):
        draft.take_buttons(buttons)


STEPS: dict[str, tuple[str, Callable[[Draft, Secret], None]]] = {
    "1": ("this device", node_step),
    "2": ("MQTT broker", broker_step),
    "3": ("pack", pack_step),
    "4": ("buttons", buttons_step),
    "5": ("display", display_step),
}
