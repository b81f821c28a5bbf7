"""A broker that lets in whoever has a certificate of its CA, by the name in it."""

import logging
import time

import pytest

from edgegen.cli.services import check_broker
from edgegen.settings import MqttSettings
from tests.certificates import Authority, needs_openssl
from tests.support import free_port, wait_for

pytestmark = needs_openssl
RIGHTS = "topic readwrite #\nuser shop\ntopic readwrite edgegen/shop/#\ntopic read edgegen/fleet/#\n"


@pytest.fixture(scope="module")
def server(authority):
    return authority.issue("server", address="127.0.0.1")


@pytest.fixture(scope="module")
def shop(authority):
    return authority.issue("shop")


@pytest.fixture
def make_strict_broker(authority, server, make_broker, tmp_path):
    """TLS with certificates on its port; a port without TLS for phones, `plain_port`."""

    def make(issued=server):
        rights = tmp_path / "rights"
        rights.write_text(RIGHTS)
        rights.chmod(0o600)
        plain = free_port()
        broker = make_broker(
            f"cafile {authority.cert}\ncertfile {issued.cert}\nkeyfile {issued.key}\n"
            f"require_certificate true\nuse_identity_as_username true\nacl_file {rights}\n"
            f"listener {plain} 127.0.0.1"
        )
        broker.plain_port = plain
        return broker

    return make


def login(authority, issued=None):
    files = {"cert_file": issued.cert, "key_file": issued.key} if issued else {}
    return {"tls": True, "ca_file": authority.cert, "home_assistant": False, **files}


def test_the_certificates_name_is_the_user(
    make_strict_broker, authority, shop, make_house, make_phone, caplog
):
    broker = make_strict_broker()
    make_house(broker.port, **login(authority, shop))
    phone = make_phone(broker.plain_port)
    phone.send("edgegen/shop/generate", {"id": "a1", "prompt": "a red apple"})
    phone.wait_status(id="a1", state="queued")
    make_house(broker.port, node="attic", wait=False, **login(authority, shop))
    wait_for(lambda: "did not take a message: Not authorized" in caplog.text, "another's topics are closed")


def test_a_broker_that_refuses_says_why(make_strict_broker, authority, make_house, tmp_path, caplog):
    broker = make_strict_broker()
    (tmp_path / "stranger").mkdir()
    unwanted = {
        "it wants a client certificate": None,
        "our certificate has expired": authority.issue("shop-expired", days=-1),
        "it does not know the CA": Authority(tmp_path / "stranger", "stranger").issue("shop"),
    }
    for said, issued in unwanted.items():
        mqtt = MqttSettings(enabled=True, host="127.0.0.1", port=broker.port, **login(authority, issued))
        found = check_broker(mqtt)
        assert (found.state, said in found.message) == ("bad", True), found
        house = make_house(broker.port, wait=False, **login(authority, issued))
        wait_for(lambda said=said: said in caplog.text, f"the log says {said}")
        assert not house.frontend.is_connected
        house.close()


@pytest.mark.parametrize(
    ("issued", "said"),
    [
        ({"address": "127.0.0.2"}, "is not for 127.0.0.1: set mqtt.host"),
        ({"address": "127.0.0.1", "days": -1}, f"has expired, if this device's clock ({time.strftime('%Y')}"),
    ],
)
def test_a_broker_whose_certificate_is_not_right(make_strict_broker, authority, shop, issued, said):
    broker = make_strict_broker(authority.issue(f"server{len(said)}", **issued))
    mqtt = MqttSettings(enabled=True, host="127.0.0.1", port=broker.port, **login(authority, shop))
    assert said in check_broker(mqtt).message


def test_a_broker_of_an_unknown_ca_and_one_without_tls(make_strict_broker, authority, shop):
    broker = make_strict_broker()
    mqtt = MqttSettings(enabled=True, host="127.0.0.1", port=broker.port, tls=True)
    assert "is of no CA the system trusts: set mqtt.ca_file" in check_broker(mqtt).message
    other = mqtt.model_copy(update={"ca_file": shop.cert})
    assert f"is of no CA in {shop.cert}" in check_broker(other).message
    plain = mqtt.model_copy(update={"port": broker.plain_port})
    assert "does this port speak TLS" in check_broker(plain).message
    bare = MqttSettings(enabled=True, host="127.0.0.1", port=broker.port)
    assert check_broker(bare).state == "bad"


def test_an_encrypted_key_opens_with_its_passphrase(
    make_strict_broker, authority, make_house, tmp_path, caplog
):
    caplog.set_level(logging.INFO)
    broker = make_strict_broker()
    secret = tmp_path / "passphrase"
    secret.write_text("sesame\n")
    locked = authority.issue("shop-locked", passphrase="sesame")
    make_house(broker.port, key_password_file=secret, **login(authority, locked))
