"""The files of a TLS login at the broker: CA, this device's certificate and key; what is wrong with them."""

from __future__ import annotations

import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, Problem
from ..settings import MqttSettings
from .credentials import MQTT_KEY, MQTT_KEY_PASSWORD, credential, first_line, reason
from .x509 import BEGIN, Certificate, read_certificates

CA, CERT, KEY, KEY_PASSWORD = "mqtt.ca_file", "mqtt.cert_file", "mqtt.key_file", "mqtt.key_password_file"


@dataclass(frozen=True)
class Identity:
    """Who we are to the broker. `key` may be the certificate's own file."""

    cert: Path
    key: Path
    key_password: Path | None


def identity(mqtt: MqttSettings, environ: Mapping[str, str] | None = None) -> Identity | None:
    """Where certificate and key are; None when the device has none.

    The key: `mqtt.key_file`, else the systemd credential, else the certificate's file holds both.

    Raises:
        ConfigError: there is a key file without a certificate.
    """
    if mqtt.cert_file is None:
        if mqtt.key_file is not None:
            said = "a key is of no use without its certificate: set mqtt.cert_file"
            raise ConfigError([Problem(KEY, str(mqtt.key_file), said)])
        return None
    cert = mqtt.cert_file.expanduser()
    key = mqtt.key_file or credential(MQTT_KEY, environ) or cert
    return Identity(cert, key.expanduser(), mqtt.key_password_file or credential(MQTT_KEY_PASSWORD, environ))


def tls_context(mqtt: MqttSettings, environ: Mapping[str, str] | None = None) -> ssl.SSLContext:
    """What a TLS connection needs: TLS 1.2 or newer, the broker's certificate and name checked.

    Raises:
        ConfigError: a file cannot be read or used, named by its key, with what to do.
    """
    context = ssl.create_default_context()
    if mqtt.ca_file:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        trust(context, mqtt.ca_file.expanduser())
    if (ours := identity(mqtt, environ)) is not None:
        identify(context, ours)
    return context


def tls_problems(mqtt: MqttSettings, environ: Mapping[str, str] | None = None) -> list[Problem]:
    """Why no connection can be tried with these files; none when TLS is off or all is well."""
    if not (mqtt.enabled and mqtt.tls):
        return []
    try:
        tls_context(mqtt, environ)
    except ConfigError as err:
        return list(err.problems)
    return []


def trust(context: ssl.SSLContext, path: Path) -> None:
    """The CA's certificate, or several in one file."""
    text = read_pem(CA, path)
    if BEGIN not in text:
        raise ConfigError([Problem(CA, str(path), f"{path} {no_pem('certificate')}")])
    try:
        context.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as err:
        raise ConfigError([Problem(CA, str(path), f"{path} cannot be used: {reason(err)}")]) from err


def identify(context: ssl.SSLContext, ours: Identity) -> None:
    """Certificate and key, each looked at first: OpenSSL does not say which file it minds."""
    if BEGIN not in read_pem(CERT, ours.cert):
        raise ConfigError([Problem(CERT, str(ours.cert), f"{ours.cert} {no_pem('certificate')}")])
    text = read_pem(KEY, ours.key)
    if "PRIVATE KEY-----" not in text:
        more = ": set mqtt.key_file" if ours.key == ours.cert else ""
        raise ConfigError([Problem(KEY, str(ours.key), f"{ours.key} {no_pem('private key')}{more}")])
    is_encrypted = "ENCRYPTED" in text
    password = first_line(KEY_PASSWORD, ours.key_password) if ours.key_password else ""
    if is_encrypted and not password:
        said = f"{ours.key} is encrypted: set mqtt.key_password_file to a file that holds its passphrase"
        raise ConfigError([Problem(KEY, str(ours.key), said)])
    try:
        context.load_cert_chain(ours.cert, ours.key, lambda: password)  # never asks at a terminal
    except (OSError, ValueError) as err:
        raise ConfigError([why_unusable(err, ours, is_encrypted)]) from err


def why_unusable(err: Exception, ours: Identity, is_encrypted: bool) -> Problem:
    """What OpenSSL minds about a certificate and a key that both look like one."""
    cause = str(getattr(err, "reason", None) or "")
    if cause == "KEY_VALUES_MISMATCH":
        return Problem(KEY, str(ours.key), f"{ours.key} is not the key of the certificate in {ours.cert}")
    if is_encrypted:
        where = ours.key_password
        return Problem(KEY_PASSWORD, str(where), f"the passphrase in {where} does not open {ours.key}")
    try:
        read_certificates(ours.cert.read_text("ascii"))
    except (OSError, ValueError):
        return Problem(CERT, str(ours.cert), f"{ours.cert} is damaged: copy it again")
    said = f"{ours.key} cannot be used: {cause or reason(err)}"
    return Problem(KEY, str(ours.key), said)


def read_pem(key: str, path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError as err:
        raise ConfigError([Problem(key, str(path), f"{path} cannot be read: {reason(err)}")]) from err


def no_pem(what: str) -> str:
    return f"holds no {what} in PEM form (text that begins with -----BEGIN)"


def certificates(path: Path | None) -> list[Certificate]:
    """Those in a file; none where it cannot be read: `tls_problems` says why."""
    try:
        return read_certificates(path.expanduser().read_text("ascii", "replace")) if path else []
    except (OSError, ValueError):
        return []


def is_open_to_all(path: Path) -> bool:
    """Whether every user of this machine may read or change a file; False where we cannot tell."""
    try:
        return bool(stat.S_IMODE(path.stat().st_mode) & 0o007)
    except OSError:
        return False
