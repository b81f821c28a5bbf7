"""What `edgegen doctor` asks of others: ONNX Runtime, the pack, the broker, the pins."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edgegen.errors import EdgegenError, PackError, PinsError

from .checks import Check

if TYPE_CHECKING:
    from edgegen.config.x509 import Certificate
    from edgegen.pack import Pack
    from edgegen.settings import ButtonSettings, EngineSettings, MqttSettings, NodeSettings, Settings

    from .machine import Roots

BROKER_TIMEOUT_S = 5.0
CERTIFICATE = "certificate"
SOON_DAYS = 30
RENEW = "put a new one in its place, then: systemctl reload edgegen-front"


def check_pack(settings: Settings) -> tuple[Check, Pack | None]:
    """Whether the configured pack's files match their hashes, and the pack, where it opens."""
    from .pack import locate

    try:
        pack = locate(settings.engine.pack, settings)
        bad = [problem for _, problem in pack.check_files() if problem]
    except PackError as err:
        return Check("pack", "bad", str(err), "set engine.pack to one of `edgegen pack list`"), None
    if bad:
        return Check("pack", "bad", f"{pack.name}: {'; '.join(bad)}", "install the pack again"), pack
    return Check("pack", "ok", f"{pack.name} in {pack.folder}: all files intact"), pack


def check_memory_mode(engine: EngineSettings, pack: Pack | None, roots: Roots) -> Check:
    """Which memory mode the pack would run in now, and why; a refusal is bad."""
    from edgegen.engine.freememory import read_free_memory
    from edgegen.engine.memorychoice import choose_memory

    if pack is None:
        return Check("memory mode", "ok", f"{engine.memory}; no pack to choose for")
    try:
        choice = choose_memory(engine.memory, pack.manifest, read_free_memory(roots.proc, roots.sys))
    except EdgegenError as err:
        return Check(
            "memory mode", "bad", str(err), "stop other programs, or set engine.pack to a smaller pack"
        )
    return Check("memory mode", "ok", f"{choice.mode.name} on provider cpu: {choice.reason}")


def check_provider(engine: EngineSettings) -> Check:
    """Which execution provider would run, and why; loads ONNX Runtime, but no graph."""
    from edgegen.engine.operators.library import choose_kind
    from edgegen.engine.providers import choose_provider
    from edgegen.engine.runtime import onnxruntime

    try:
        number = onnxruntime().__version__
        choice = choose_provider(engine.provider, operators=engine.operators)
    except (ImportError, OSError) as err:
        return Check("provider", "bad", f"ONNX Runtime does not load: {err}", "pip install onnxruntime")
    except EdgegenError as err:
        return Check("provider", "bad", str(err), "set engine.provider to auto, or install what it needs")
    told = f"{choice.name}: {choice.reason} (ONNX Runtime {number})"
    kind = choose_kind(choice.operators) if choice.operators else ""
    return Check("provider", "ok", f"{told}; operators of our own by {kind}" if kind else told)


def check_daemon(node: NodeSettings) -> tuple[Check, bool]:
    """Whether the daemon answers on its socket, with or without an engine."""
    from edgegen.jobs.link import FrontError

    from .access import connect

    try:
        with connect(node) as link:
            told = link.ask("status")
    except FrontError as err:
        return Check("daemon", "warn", str(err), "under systemd: systemctl status edgegen"), False
    said = f"running, version {told.get('version')}"
    if told.get("safe_mode"):
        problems = "; ".join(told["config"]["problems"])
        advice = "mend it, then: systemctl reload edgegen-front"
        return Check("daemon", "bad", f"{said}, in safe mode: {problems}", advice), True
    if not told.get("engine"):
        return Check("daemon", "warn", f"{said}, but no engine", "it may be starting; see the log"), True
    return Check("daemon", "ok", f"{said}, engine ready"), True


def check_broker(mqtt: MqttSettings, password: str | None = None) -> Check:
    """Connects and logs in under a client id of its own, so that a running daemon keeps its session.

    Args:
        password: to try instead of the one in `mqtt.password_file`.
    """
    where = f"{mqtt.host}:{mqtt.port}"
    if not mqtt.enabled:
        return Check("broker", "ok", "mqtt is not enabled")
    try:
        reason, missed = broker_answer(mqtt, password)
    except (OSError, ValueError) as err:
        from edgegen.frontends.mqtt.handshake import why_unreachable

        advice = "check mqtt.host, mqtt.port, mqtt.tls and its files, and that the broker runs"
        return Check("broker", "bad", f"{where}: {why_unreachable(err, mqtt, time.time())}", advice)
    if reason is None:
        advice = "is it an MQTT broker? with TLS, set mqtt.tls"
        return Check("broker", "bad", f"{where}: no answer in {BROKER_TIMEOUT_S:g} s", advice)
    if reason != "Success":
        is_old = reason == "Unsupported protocol version"
        advice = "set mqtt.protocol to 3.1.1" if is_old else "check mqtt.username and mqtt.password_file"
        return Check("broker", "bad", f"{where}: {reason}", advice)
    said = f"{where}: connected, login accepted"
    if missed:
        advice = "it works as far as that goes; set the broker up otherwise if you miss something"
        return Check("broker", "warn", f"{said}; it {', and '.join(missed)}", advice)
    return Check("broker", "ok", said)


def broker_answer(mqtt: MqttSettings, password: str | None = None) -> tuple[str | None, list[str]]:
    """The reason in the broker's CONNACK (`Success`, `Not authorized`, ...), and what it says that it cannot.

    None in place of a reason: no answer in time.

    Raises:
        OSError: no connection, a failed TLS handshake.
        ConfigError: a file of the login cannot be used.
    """
    import secrets

    from paho.mqtt.enums import MQTTErrorCode

    from edgegen.frontends.mqtt.client import log_in_with, new_client
    from edgegen.frontends.mqtt.handshake import alert_of
    from edgegen.frontends.mqtt.limits import BrokerLimits

    said: list[str] = []
    limits = BrokerLimits()
    name = f"edgegen-doctor-{secrets.token_hex(4)}"
    client = new_client(mqtt.protocol, name)

    def note(_client: object, _data: object, _flags: object, reason: object, properties: object) -> None:
        limits.hear(properties)
        said.append(str(reason))

    client.on_connect = note
    client.connect_timeout = BROKER_TIMEOUT_S
    log_in_with(client, mqtt, password)
    deadline = time.monotonic() + BROKER_TIMEOUT_S
    client.connect(mqtt.host, mqtt.port)
    while not said and time.monotonic() < deadline:
        if client.loop(0.2) != MQTTErrorCode.MQTT_ERR_SUCCESS and not said:
            alert = alert_of(mqtt, BROKER_TIMEOUT_S) if mqtt.tls else ""
            raise ConnectionError(alert or "the broker closed the connection")
    client.disconnect()
    return (said[0] if said else None), limits.current.consequences(mqtt)


def check_certificates(mqtt: MqttSettings, now: float) -> list[Check]:
    """How long the certificates of a TLS login are good, and whether others could read the key.

    Args:
        now: Unix seconds.
    """
    from edgegen.config.tlsfiles import certificates, identity, is_open_to_all, tls_problems

    if not mqtt.enabled or not (mqtt.tls or mqtt.cert_file):
        return []
    if not mqtt.tls:
        said = "mqtt.cert_file is set, but mqtt.tls is not: nothing is encrypted, and nobody sees it"
        return [Check(CERTIFICATE, "warn", said, "set mqtt.tls, and mqtt.port (8883 is usual)")]
    if problems := tls_problems(mqtt):
        return [Check(CERTIFICATE, "bad", str(problem)) for problem in problems]
    found = [check_expiry("of the CA", certificate, now) for certificate in certificates(mqtt.ca_file)]
    found += [
        check_expiry("of this device", certificate, now) for certificate in certificates(mqtt.cert_file)[:1]
    ]
    ours = identity(mqtt)
    if ours and is_open_to_all(ours.key):
        said = f"{ours.key}: every user of this machine may read the key"
        found.append(Check(CERTIFICATE, "warn", said, f"chmod o= {ours.key}"))
    return found


def check_expiry(whose: str, certificate: Certificate, now: float) -> Check:
    """One certificate against the clock; warns a month ahead."""
    days = certificate.days_left(now)
    until = datetime.fromtimestamp(certificate.ends, UTC).strftime("%Y-%m-%d")
    said = f"{whose}, {certificate.name or 'without a name'}: "
    if now < certificate.begins:
        begins = datetime.fromtimestamp(certificate.begins, UTC).strftime("%Y-%m-%d %H:%M UTC")
        return Check(CERTIFICATE, "bad", f"{said}is good from {begins} only", "is the clock right?")
    if days < 0:
        return Check(CERTIFICATE, "bad", f"{said}has expired on {until}", RENEW)
    if days < SOON_DAYS:
        return Check(CERTIFICATE, "warn", f"{said}{days:.0f} days left, until {until}", RENEW)
    return Check(CERTIFICATE, "ok", f"{said}{days:.0f} days left, until {until}")


def check_pins(buttons: Sequence[ButtonSettings], daemon_runs: bool) -> Check:
    """Whether the pins of the buttons can be opened; a running daemon holds them itself."""
    pins = sorted({pin for button in buttons for pin in (button.pin, button.led) if pin is not None})
    if not pins:
        return Check("pins", "ok", "no buttons are configured")
    said = f"GPIO {', '.join(map(str, pins))}"
    if daemon_runs:
        return Check("pins", "ok", f"{said}: in the daemon's hands")
    try:
        try_pins(pins)
    except PinsError as err:
        return Check("pins", "bad", f"{said}: {err}")
    except Exception as err:  # noqa: BLE001 - pin libraries raise what they like
        advice = "does another program hold the pin? is the user in group gpio?"
        return Check("pins", "bad", f"{said}: {str(err) or type(err).__name__}", advice)
    return Check("pins", "ok", f"{said}: free")


def check_button_workflows(settings: Settings) -> Iterator[Check]:
    """Whether the workflows that buttons name are stored and can be filled in; nothing without one."""
    from edgegen.config.files import workflow_dir
    from edgegen.jobs.buttonjobs import button_problems
    from edgegen.jobs.workflowjob import WorkflowFolder

    named = [button.workflow for button in settings.buttons if button.workflow]
    if not named:
        return
    folder = workflow_dir(settings)
    problems = [
        f"{key}: {problem}" for key, problem in button_problems(settings, WorkflowFolder(folder).read)
    ]
    if problems:
        more = f" (and {len(problems) - 1} more: edgegen config validate)" if len(problems) > 1 else ""
        yield Check("workflows", "bad", problems[0] + more, f"stored workflows are files of {folder}")
    else:
        yield Check("workflows", "ok", f"of buttons: {', '.join(named)}")


def try_pins(pins: Sequence[int]) -> None:
    """Opens each pin as an input, the way the buttons do, and lets it go.

    Raises:
        PinsError: this machine has no pins, or a library for them is missing.
    """
    from edgegen.frontends.buttons import open_pins

    with tempfile.TemporaryDirectory() as folder:
        factory = open_pins(Path(folder))
        from gpiozero import InputDevice

        for pin in pins:
            InputDevice(pin, pull_up=True, pin_factory=factory).close()
        factory.close()
