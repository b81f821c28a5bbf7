"""Why a TLS handshake with the broker failed, and what to do about it."""

from __future__ import annotations

import re
import socket
import ssl
import time
from datetime import UTC, datetime

from ...config.tlsfiles import tls_context
from ...settings import MqttSettings

# X509_V_ERR_... of OpenSSL's x509_vfy.h
NOT_YET_VALID, EXPIRED = 9, 10
UNKNOWN_CA = (2, 18, 19, 20, 21)
OTHER_NAME = (62, 64)
_TRY_OURS = "renew mqtt.cert_file, and look at the clock"
_WANTED = "it wants a client certificate: set mqtt.cert_file and mqtt.key_file"
ALERTS = {  # what the broker says, by OpenSSL's names
    "CERTIFICATE_REQUIRED": _WANTED,
    "HANDSHAKE_FAILURE": f"no agreement; perhaps {_WANTED}",
    "CERTIFICATE_EXPIRED": f"our certificate has expired, it says: {_TRY_OURS}",
    "CERTIFICATE_REVOKED": "our certificate was revoked, it says: mqtt.cert_file needs a new one",
    "UNKNOWN_CA": "it does not know the CA that signed our certificate (mqtt.cert_file)",
    "BAD_CERTIFICATE": "it does not accept our certificate (mqtt.cert_file)",
    "UNSUPPORTED_CERTIFICATE": "our certificate (mqtt.cert_file) is not made for clients",
    "CERTIFICATE_UNKNOWN": "it does not accept our certificate (mqtt.cert_file)",
    "PROTOCOL_VERSION": "it speaks a version of TLS before 1.2",
    "WRONG_VERSION_NUMBER": "this port does not speak TLS: see mqtt.port and mqtt.tls",
    "RECORD_LAYER_FAILURE": "this port does not speak TLS: see mqtt.port and mqtt.tls",
}


def why_unreachable(err: Exception, mqtt: MqttSettings, now: float) -> str:
    """One line for people; errors that are none of TLS in their own words.

    Args:
        now: Unix seconds, told where the clock may be at fault.
    """
    if isinstance(err, ssl.SSLCertVerificationError):
        return why_not_trusted(err, mqtt, now)
    found = re.search(r"\[SSL: (\w+)\]", str(err))
    said = next((said for name, said in ALERTS.items() if found and found[1].endswith(name)), "")
    if mqtt.tls and isinstance(err, ConnectionResetError | ssl.SSLEOFError):
        said = "hangs up in the TLS handshake: does this port speak TLS (mqtt.port, mqtt.tls)?"
    return said or getattr(err, "strerror", None) or str(err)


def why_not_trusted(err: ssl.SSLCertVerificationError, mqtt: MqttSettings, now: float) -> str:
    """What we mind about the broker's certificate."""
    clock = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")
    code, ca = (
        err.verify_code,
        f"in {mqtt.ca_file}" if mqtt.ca_file else "the system trusts: set mqtt.ca_file",
    )
    if code in (NOT_YET_VALID, EXPIRED):
        said = "has expired" if code == EXPIRED else "is not valid yet"
        return f"the broker's certificate {said}, if this device's clock ({clock}) is right"
    if code in UNKNOWN_CA:
        return f"the broker's certificate is of no CA {ca}"
    if code in OTHER_NAME:
        return f"the broker's certificate is not for {mqtt.host}: set mqtt.host to a name that it holds"
    return f"the broker's certificate does not pass: {err.verify_message}"


def alert_of(mqtt: MqttSettings, timeout_s: float) -> str:
    """What the broker says of our certificate: with TLS 1.3 it does so after the handshake, and what a client
    sent meanwhile may cost it those words; so we ask once more and only listen. Empty: nothing.

    Raises:
        ConfigError: a file of the login cannot be used.
    """
    context = tls_context(mqtt)
    try:
        with (
            socket.create_connection((mqtt.host, mqtt.port), timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=mqtt.host) as connection,
        ):
            connection.recv(1)
    except ssl.SSLError as err:
        return why_unreachable(err, mqtt, time.time()) if "ALERT" in str(err) else ""
    except OSError:
        pass
    return ""
