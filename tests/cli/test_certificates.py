"""Certificates as `doctor`, `config validate`, `config try` and `setup` speak of them."""

import json

import pytest

from edgegen.cli.services import check_certificates, check_expiry
from edgegen.config.x509 import DAY_S, Certificate
from edgegen.settings import MqttSettings
from tests.certificates import needs_openssl

from .terminal import Terminal

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("days", "state", "said"),
    [
        (400, "ok", "of this device, lobby: 400 days left, until 2028-02-19"),
        (29, "warn", "29 days left"),
        (-1, "bad", "has expired on 2027-01-14"),
    ],
)
def test_the_doctor_counts_the_days(days, state, said):
    found = check_expiry("of this device", Certificate("lobby", 0, NOW + days * DAY_S), NOW)
    assert (found.state, said in found.message) == (state, True), found
    assert bool(found.advice) == (state != "ok")


def test_a_certificate_of_tomorrow_makes_one_doubt_the_clock():
    found = check_expiry("of the CA", Certificate("", NOW + DAY_S, NOW + 9 * DAY_S), NOW)
    assert (found.state, found.advice) == ("bad", "is the clock right?")


@pytest.fixture(scope="module")
def hall(authority):
    return authority.issue("hall", days=20)


@pytest.fixture(scope="module")
def strict(authority):
    """Lines of a broker that wants certificates."""
    server = authority.issue("cli-server", address="127.0.0.1")
    return (
        f"cafile {authority.cert}\ncertfile {server.cert}\nkeyfile {server.key}\n"
        "require_certificate true\nuse_identity_as_username true"
    )


def mqtt_lines(authority, issued, port, host="127.0.0.1"):
    return (
        f'[mqtt]\nenabled = true\nhost = "{host}"\nport = {port}\ntls = true\n'
        f'ca_file = "{authority.cert}"\ncert_file = "{issued.cert}"\nkey_file = "{issued.key}"\n'
    )


@needs_openssl
def test_doctor_and_validate_with_a_real_broker(device, authority, hall, strict, make_broker, tmp_path):
    broker = make_broker(strict)
    device.write_config(mqtt_lines(authority, hall, broker.port))
    told = json.loads(device.run("doctor", "--json").stdout)["checks"]
    found = [(c["state"], c["message"]) for c in told if c["name"] in ("certificate", "broker")]
    assert [state for state, _ in found] == ["ok", "warn", "ok"]
    assert found[1][1].startswith("of this device, hall: 20 days left")
    assert device.run("config", "validate").exit_code == 0
    other = authority.issue("other-hall")
    device.write_config(mqtt_lines(authority, hall, broker.port).replace(str(hall.key), str(other.key)))
    refused = device.run("config", "validate")
    assert refused.exit_code == 78
    assert (
        f"{other.key} is not the key of the certificate in {hall.cert} ({device.config}:16)" in refused.stderr
    )
    assert device.run("config", "validate", "--no-files").exit_code == 0
    (problem,) = json.loads(device.run("config", "validate", "--json").stdout)["problems"]
    assert (problem["key"], problem["line"]) == ("mqtt.key_file", 16)


@needs_openssl
def test_what_has_expired_does_not_validate(device, authority):
    device.write_config(mqtt_lines(authority, authority.issue("gone", days=-1), 8883))
    refused = device.run("config", "validate")
    assert (refused.exit_code, "mqtt.cert_file: " in refused.stderr) == (78, True)
    assert "has expired" in refused.stderr


@needs_openssl
def test_a_trial_without_a_good_certificate_rolls_back(device, authority, strict, make_broker):
    broker = make_broker(strict)
    words = ["mqtt.enabled=true", "mqtt.host=127.0.0.1", f"mqtt.port={broker.port}", "mqtt.tls=true"]
    before = device.config.read_text()
    result = device.run("config", "try", *words, f"mqtt.ca_file={authority.cert}")
    assert result.exit_code == 1
    assert "it wants a client certificate: set mqtt.cert_file" in result.stdout
    assert "rolled back: a check failed" in result.stderr
    assert device.config.read_text() == before


def test_a_certificate_without_tls_and_an_open_key_are_told(tmp_path):
    (found,) = check_certificates(MqttSettings(enabled=True, cert_file=tmp_path / "x"), NOW)
    assert (found.state, "mqtt.tls is not" in found.message) == ("warn", True)
    assert check_certificates(MqttSettings(enabled=True), NOW) == []


@needs_openssl
def test_a_key_that_all_may_read_is_told(authority):
    issued = authority.issue("careless")
    issued.key.chmod(0o644)
    mqtt = MqttSettings(enabled=True, tls=True, cert_file=issued.cert, key_file=issued.key)
    found = check_certificates(mqtt, NOW)[-1]
    assert (found.state, found.advice) == ("warn", f"chmod o= {issued.key}")


@needs_openssl
def test_setup_asks_for_certificate_key_and_passphrase(device, authority, strict, make_broker):
    broker = make_broker(strict)
    locked = authority.issue("setup-locked", passphrase="sesame")
    secret = device.home / "passphrase"
    secret.write_text("sesame\n")
    terminal = Terminal(device.command("setup"), device.home, device.environ())
    try:
        terminal.answer("Name [edgegen]: ", "")
        terminal.answer("Take jobs from an MQTT broker? (y/n) [n]: ", "y")
        terminal.answer("Host [localhost]: ", "127.0.0.1")
        terminal.answer("TLS? (y/n) [n]: ", "y")
        terminal.answer("File of the CA's certificate", str(authority.cert))
        terminal.answer("File of this device's certificate", str(locked.cert))
        terminal.answer("File of its key", str(locked.key))
        terminal.answer("File of the key's passphrase", str(secret))
        terminal.answer("Port [8883]: ", str(broker.port))
        terminal.answer("User", "")
        assert "login accepted" in terminal.wait_for("Announce it to Home Assistant?")
    finally:
        terminal.close()
