"""What is wrong with a certificate, its key or its passphrase is told by file, before anything connects."""

import pytest

from edgegen.config.credentials import MQTT_KEY, MQTT_KEY_PASSWORD, credential, login_stamps
from edgegen.config.tlsfiles import identity, is_open_to_all, tls_context, tls_problems
from edgegen.errors import ConfigError
from edgegen.settings import MqttSettings
from tests.certificates import needs_openssl

pytestmark = needs_openssl


@pytest.fixture(scope="module")
def lobby(authority):
    return authority.issue("tls-lobby")


@pytest.fixture(scope="module")
def locked(authority):
    return authority.issue("tls-locked", passphrase="sesame")


def told(**files):
    (problem,) = tls_problems(MqttSettings(enabled=True, tls=True, **files))
    return str(problem)


def test_good_files_are_no_problem(authority, lobby):
    files = {"ca_file": authority.cert, "cert_file": lobby.cert, "key_file": lobby.key}
    assert tls_problems(MqttSettings(enabled=True, tls=True, **files)) == []
    assert tls_problems(MqttSettings(enabled=True, tls=False, cert_file="/nowhere")) == []
    assert tls_problems(MqttSettings(enabled=False, tls=True, cert_file="/nowhere")) == []


def test_key_and_certificate_may_share_a_file(tmp_path, lobby):
    both = tmp_path / "both.pem"
    both.write_text(lobby.cert.read_text() + lobby.key.read_text())
    assert tls_problems(MqttSettings(enabled=True, tls=True, cert_file=both)) == []
    assert told(cert_file=lobby.cert).endswith("begins with -----BEGIN): set mqtt.key_file")


@pytest.mark.parametrize("key", ["ca_file", "cert_file"])
def test_a_file_that_is_missing_or_no_certificate(tmp_path, key):
    assert (
        told(**{key: tmp_path / "nowhere"})
        == f"mqtt.{key}: {tmp_path}/nowhere cannot be read: No such file or directory"
    )
    (tmp_path / "der").write_bytes(b"\x30\x82\x01\x02\xff")
    assert f"mqtt.{key}: {tmp_path}/der holds no certificate in PEM form" in told(**{key: tmp_path / "der"})


def test_a_damaged_certificate(tmp_path, lobby, authority):
    lines = lobby.cert.read_text().splitlines()
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("\n".join(lines[:2] + lines[3:]))
    assert (
        told(cert_file=damaged, key_file=lobby.key) == f"mqtt.cert_file: {damaged} is damaged: copy it again"
    )
    assert f"mqtt.ca_file: {damaged} cannot be used" in told(ca_file=damaged)


def test_a_key_of_another_certificate(authority, lobby):
    other = authority.issue("tls-other")
    said = told(cert_file=lobby.cert, key_file=other.key)
    assert said == f"mqtt.key_file: {other.key} is not the key of the certificate in {lobby.cert}"


def test_a_key_without_its_certificate(lobby):
    assert "mqtt.key_file: a key is of no use without its certificate" in told(key_file=lobby.key)


def test_an_encrypted_key_needs_its_passphrase_and_never_asks(tmp_path, locked):
    files = {"cert_file": locked.cert, "key_file": locked.key}
    assert f"{locked.key} is encrypted: set mqtt.key_password_file" in told(**files)
    secret = tmp_path / "passphrase"
    secret.write_text("wrong\n")
    assert told(**files, key_password_file=secret) == (
        f"mqtt.key_password_file: the passphrase in {secret} does not open {locked.key}"
    )
    assert "mqtt.key_password_file: " in told(**files, key_password_file=tmp_path / "nowhere")
    secret.write_text("sesame\nnot this line")
    assert tls_problems(MqttSettings(enabled=True, tls=True, **files, key_password_file=secret)) == []


def test_key_and_passphrase_may_come_as_systemd_credentials(tmp_path, locked):
    (tmp_path / MQTT_KEY).write_text(locked.key.read_text())
    (tmp_path / MQTT_KEY_PASSWORD).write_text("sesame\n")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    mqtt = MqttSettings(enabled=True, tls=True, cert_file=locked.cert)
    assert identity(mqtt, environ).key == tmp_path / MQTT_KEY
    tls_context(mqtt, environ)
    with pytest.raises(ConfigError, match=r"set mqtt\.key_file"):
        tls_context(mqtt, {})
    assert identity(mqtt.model_copy(update={"key_file": locked.key}), environ).key == locked.key


def test_a_shell_of_root_finds_what_the_unit_is_handed(tmp_path):
    assert credential(MQTT_KEY, {}, tmp_path) is None
    (tmp_path / MQTT_KEY).write_text("")
    assert credential(MQTT_KEY, {}, tmp_path) == tmp_path / MQTT_KEY
    assert credential(MQTT_KEY, {"CREDENTIALS_DIRECTORY": "/nowhere"}, tmp_path) is None


def test_a_key_that_everybody_may_read_is_noticed(tmp_path):
    key = tmp_path / "key"
    key.touch()
    for mode, is_open in ((0o600, False), (0o640, False), (0o644, True), (0o602, True)):
        key.chmod(mode)
        assert is_open_to_all(key) is is_open
    assert not is_open_to_all(tmp_path / "nowhere")


def test_a_renewed_file_has_another_stamp(tmp_path):
    cert = tmp_path / "cert"
    mqtt = MqttSettings(cert_file=cert)
    missing = login_stamps(mqtt)
    cert.write_text("old")
    old = login_stamps(mqtt)
    (tmp_path / "new").write_text("new")
    (tmp_path / "new").rename(cert)
    assert len({str(stamps) for stamps in (missing, old, login_stamps(mqtt))}) == 3
    assert login_stamps(mqtt) == login_stamps(mqtt)
