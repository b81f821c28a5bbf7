"""Several devices share the jobs of one topic."""

from __future__ import annotations

from edgegen.frontends.mqtt.client import make_client
from edgegen.frontends.mqtt.messages import Outgoing
from edgegen.settings import MqttSettings
from tests.support import wait_for

FLEET = "edgegen/fleet/generate"


def jobs_of(*houses) -> list[str]:
    return sorted(job.id for house in houses for job in house.service.jobs())


def test_each_fleet_job_goes_to_one_device_and_all_get_some(broker, make_house, make_phone):
    houses = [make_house(broker.port, node=node, fleet=True) for node in ("shop", "attic")]
    alone = make_house(broker.port, node="alone")
    phone = make_phone(broker.port)
    names = [f"j{number:02}" for number in range(12)]
    for name in names:
        phone.send(FLEET, {"id": name, "prompt": "a red apple"})
    wait_for(lambda: len(jobs_of(*houses)) == 12, "all jobs are taken")
    assert jobs_of(*houses) == names, "each once"
    assert all(len(house.service.jobs()) >= 3 for house in houses)
    assert jobs_of(alone) == []
    for name in names:
        phone.wait_status(id=name, state="queued")
    phone.send("edgegen/attic/generate", {"id": "own", "prompt": "a red apple"})
    wait_for(lambda: "own" in jobs_of(houses[1]), "a device's own topic still works")


def test_a_device_that_left_the_fleet_gets_no_more_and_loses_none(broker, make_house, make_phone):
    house = make_house(broker.port, fleet=True)
    house.close()
    phone = make_phone(broker.port)
    phone.send(FLEET, {"id": "kept", "prompt": "a red apple"})  # the broker keeps it in our session
    house = make_house(broker.port, fleet=False)
    wait_for(lambda: jobs_of(house) == ["kept"], "what was ours already is done")
    other = make_house(broker.port, node="attic", fleet=True)
    for number in range(4):
        phone.send(FLEET, {"id": f"j{number}", "prompt": "a red apple"})
    wait_for(lambda: len(jobs_of(other)) == 4, "the others take the rest")
    assert jobs_of(house) == ["kept"]


def test_a_fleet_device_takes_one_message_at_a_time():
    will = Outgoing("edgegen/shop/availability", b"offline", retain=True)
    for is_fleet, expected in ((True, 1), (False, 20)):
        client = make_client(MqttSettings(fleet=is_fleet), "edgegen-shop", will)
        assert client._connect_properties.ReceiveMaximum == expected
