"""Commands become jobs and events become messages, over a real mosquitto."""

import json

import paho.mqtt.client as paho
import pytest

from edgegen.jobs.diskspace import DiskReserve
from edgegen.jobs.job import JobState
from edgegen.settings import GallerySettings
from tests.frontends.mqtt.conftest import PICTURE
from tests.support import text_to_image_graph, wait_for

GENERATE = "edgegen/shop/generate"


def test_a_prompt_becomes_a_job_and_a_picture(house, phone):
    phone.send(GENERATE, {"id": "a1", "prompt": "a red apple", "steps": 3, "transaction": "t7"})
    queued = phone.wait_status(id="a1", state="queued")
    assert queued["place"] == 1
    assert queued["transaction"] == "t7"
    assert house.service.job("a1").request.steps == 3

    house.run_next()
    done = phone.wait_status(id="a1", state="done")
    assert done["image"] == "edgegen/shop/last/image"
    assert (done["seed"], done["seconds"], done["file"]) == (5, 1.25, "a1.png")
    assert phone.statuses(state="running", step=3, steps=3)
    image = phone.wait_message("edgegen/shop/last/image", PICTURE)
    assert image.properties.ContentType == "image/webp"
    wait_for(lambda: phone.on("edgegen/shop/last/meta"), "last/meta")
    meta = phone.on("edgegen/shop/last/meta")[-1]
    assert json.loads(meta.payload)["prompt"] == "a red apple"
    assert meta.properties.ContentType == "application/json"


def test_statuses_are_not_retained_and_the_last_picture_is(house, phone, broker, make_phone):
    phone.send(GENERATE, {"id": "a1", "prompt": "a red apple"})
    phone.wait_status(id="a1", state="queued")
    house.run_next()
    phone.wait_message("edgegen/shop/last/image", PICTURE)
    late = make_phone(broker.port)
    late.wait_message("edgegen/shop/last/image", PICTURE)
    late.wait_message("edgegen/shop/availability", b"online")
    assert all(m.retain for m in late.heard)
    assert not late.statuses()


def test_a_bare_prompt_is_enough(house, phone):
    phone.send(GENERATE, "ein roter Apfel 🍎")
    status = phone.wait_status(state="queued")
    assert house.service.job(status["id"]).request.prompt == "ein roter Apfel 🍎"
    assert house.service.job(status["id"]).request.source == "mqtt"


@pytest.mark.parametrize(
    ("payload", "code", "field", "says"),
    [
        ('{"prompt": "x"', "bad_request", None, "broken JSON"),
        ('{"prompt": "x", "stepz": 4}', "bad_request", "stepz", "did you mean steps"),
        ('{"prompt": "x", "steps": 4000}', "bad_request", "steps", "100"),
        ('{"prompt": "x", "steps": "4"}', "bad_request", "steps", "4"),
        ('{"prompt": "x", "guidance": 1e999}', "bad_request", "guidance", "guidance"),
        ('{"prompt": 7}', "bad_request", "prompt", "text"),
        ('{"id": "a/b", "prompt": "x"}', "bad_request", "id", "A-Z"),
        ("x" * 1001, "bad_request", "prompt", "1000"),
        ("", "bad_request", "prompt", "empty"),
        ("   ", "bad_request", "prompt", "empty"),
        (b"\xff\xfe\xff", "bad_request", None, "UTF-8"),
        ("x" * 70_000, "too_large", None, "65536"),
    ],
)
def test_bad_commands_are_rejected_with_a_reason(house, phone, payload, code, field, says):
    phone.send(GENERATE, payload)
    status = phone.wait_status(state="rejected")
    assert status["code"] == code
    assert says in status["reason"]
    if field:
        assert status["problems"][0]["field"] == field
    assert house.service.jobs() == []


def test_a_workflow_becomes_a_job_named_in_its_messages(house, phone):
    phone.send(GENERATE, {"id": "w1", "workflow": text_to_image_graph(), "inputs": {"3.steps": 4}})
    phone.wait_status(id="w1", state="queued")
    request = house.service.job("w1").request
    assert json.loads(request.workflow) == text_to_image_graph(steps=4)
    house.run_next()
    phone.wait_status(id="w1", state="done")
    wait_for(lambda: phone.on("edgegen/shop/last/meta"), "last/meta")
    assert json.loads(phone.on("edgegen/shop/last/meta")[-1].payload)["workflow"] == "inline"


def test_a_wrong_workflow_is_rejected_at_the_door_with_comfyuis_node_errors(house, phone):
    broken = text_to_image_graph("x" * 5000, steps=0, sampler_name="eulr")
    phone.send(GENERATE, {"id": "w1", "workflow": broken, "transaction": "t1"})
    status = phone.wait_status(id="w1", state="rejected")
    assert (status["code"], status["transaction"]) == ("bad_workflow", "t1")
    assert "node 3 (KSampler) steps: 0 is too small; allowed are 1 to 10000" in status["reason"]
    assert [p["message"][:8] for p in status["problems"]] == ["node 3 (", "node 3 (", "node 6 ("]
    kinds = {node: [e["type"] for e in told["errors"]] for node, told in status["node_errors"].items()}
    assert kinds == {
        "3": ["value_smaller_than_min", "value_not_in_list"],
        "6": ["custom_validation_failed"],
    }
    shown = status["node_errors"]["6"]["errors"][0]["extra_info"]["received_value"]
    assert len(shown) == 200
    assert house.service.jobs() == []


def test_a_rejection_of_hundreds_of_problems_stays_small(house, phone):
    nodes = text_to_image_graph()
    nodes |= {f"s{n}": {"class_type": "SaveImage", "inputs": {}} for n in range(400)}
    phone.send(GENERATE, {"id": "w1", "workflow": nodes})
    status = phone.wait_status(id="w1", state="rejected")
    assert (len(status["problems"]), len(status["reason"])) == (50, 2000)


def test_a_rejection_answers_to_the_senders_id(house, phone):
    phone.send(GENERATE, {"id": "mine", "prompt": "", "transaction": "t1"})
    assert phone.wait_status(id="mine", state="rejected")["transaction"] == "t1"
    assert phone.on("edgegen/shop/job/mine/status")


def test_a_monster_payload_does_not_get_through_and_harms_nothing(house, phone):
    phone.send(GENERATE, b"x" * 3_000_000)
    phone.send(GENERATE, {"id": "after", "prompt": "a red apple"})
    phone.wait_status(id="after", state="queued")
    assert len(house.service.jobs()) == 1


def test_retained_commands_are_refused_live_and_on_a_new_subscription(broker, make_phone, make_house):
    phone = make_phone(broker.port)
    phone.send(GENERATE, {"id": "old", "prompt": "a red apple"}, retain=True)
    house = make_house(broker.port)
    assert phone.wait_status(id="old", state="rejected")["code"] == "retained"
    phone.send(GENERATE, {"id": "new", "prompt": "a red apple"}, retain=True)
    assert "not retained" in phone.wait_status(id="new", state="rejected")["reason"]
    assert house.service.jobs() == []


def test_the_same_id_again_is_the_same_job(house, phone):
    for _ in range(3):
        phone.send(GENERATE, {"id": "a1", "prompt": "a red apple"})
    phone.send(GENERATE, {"id": "a2", "prompt": "a red apple"})
    phone.wait_status(id="a2", state="queued")
    assert [job.id for job in house.service.jobs()] == ["a1", "a2"]


def test_a_result_that_is_under_way_is_not_told_twice_to_who_asks_again(house, phone):
    """As a broker does that was cut off: it sends a window full of commands again."""
    fetched, fetch = [], house.frontend._courier.fetch
    house.frontend._courier.fetch = fetched.append  # the result waits, as behind others
    phone.send(GENERATE, {"id": "a1", "prompt": "a red apple"}, ResponseTopic="edgegen/shop/answers")
    phone.wait_status(id="a1", state="queued")
    house.run_next()
    phone.send(GENERATE, {"id": "a1", "prompt": "a red apple"}, ResponseTopic="edgegen/shop/answers")
    phone.send(GENERATE, {"id": "a1", "prompt": "a red apple"}, ResponseTopic="edgegen/shop/elsewhere")
    elsewhere = "edgegen/shop/elsewhere"
    wait_for(lambda: phone.on(elsewhere), "who asks for an answer elsewhere gets it now")
    assert json.loads(phone.on(elsewhere)[0].payload)["state"] == "done"
    assert not phone.statuses(id="a1", state="done")
    fetch(fetched[0])
    wait_for(lambda: house.service.status()["outbox"]["waiting"] == 0, "all is told")
    phone.send(GENERATE, {"id": "a2", "prompt": "a red apple"})
    phone.wait_status(id="a2", state="queued")
    assert len(phone.statuses(id="a1", state="done")) == 1
    answers = [json.loads(m.payload)["state"] for m in phone.on("edgegen/shop/answers")]
    assert answers.count("done") == 1


def test_a_finished_job_sent_again_gets_its_result_again(house, phone):
    phone.send(GENERATE, {"id": "a1", "prompt": "a red apple"})
    phone.wait_status(id="a1", state="queued")
    house.run_next()
    phone.wait_status(id="a1", state="done")
    phone.send(GENERATE, {"id": "a1", "prompt": "a red apple"})
    wait_for(lambda: len(phone.statuses(id="a1", state="done")) == 2, "done is told again")
    assert len(house.service.jobs()) == 1


def test_a_full_queue_is_a_rejection(house, phone):
    house.queue._settings = house.queue._settings.model_copy(update={"max_jobs": 1})
    phone.send(GENERATE, {"id": "a1", "prompt": "a red apple"})
    phone.send(GENERATE, {"id": "a2", "prompt": "a red apple"})
    assert phone.wait_status(id="a2", state="rejected")["code"] == "queue_full"


@pytest.mark.parametrize("payload", ["a1", '{"id": "a1"}'])
def test_cancel_by_id(house, phone, payload):
    phone.send(GENERATE, {"id": "a1", "prompt": "a red apple"})
    phone.send("edgegen/shop/cancel", payload)
    phone.wait_status(id="a1", state="cancelled")
    assert house.service.job("a1").state == JobState.CANCELLED


@pytest.mark.parametrize(
    ("payload", "code"), [("nobody", "unknown_job"), ("a b", "bad_request"), (b"\xff", "bad_request")]
)
def test_cancelling_nothing_is_a_rejection(house, phone, payload, code):
    phone.send("edgegen/shop/cancel", payload)
    assert phone.wait_status(state="rejected")["code"] == code


def test_mqtt_5_request_and_response(house, phone):
    phone.send(
        GENERATE,
        {"id": "a1", "prompt": "a red apple"},
        ResponseTopic="edgegen/replies/phone",
        CorrelationData=b"\x01\x02",
        MessageExpiryInterval=600,
    )
    phone.wait_status(id="a1", state="queued")
    assert house.service.job("a1").request.deadline > 600
    house.run_next()
    phone.wait_status(id="a1", state="done")
    wait_for(
        lambda: [json.loads(m.payload)["state"] for m in phone.on("edgegen/replies/phone")][-1:] == ["done"],
        "done on the response topic",
    )
    answers = phone.on("edgegen/replies/phone")
    assert {m.properties.CorrelationData for m in answers} == {b"\x01\x02"}
    assert {m.properties.ContentType for m in answers} == {"application/json"}


def test_statuses_expire_at_the_broker_and_the_last_picture_does_not(broker, make_house, make_phone):
    house = make_house(broker.port, status_expiry_s=500)
    phone = make_phone(broker.port)
    phone.send(GENERATE, {"id": "a1", "prompt": "a red apple"}, ResponseTopic="edgegen/answers")
    phone.wait_status(id="a1", state="queued")
    house.run_next()
    phone.wait_message("edgegen/shop/last/image", PICTURE)
    for message in phone.on("edgegen/shop/job/a1/status") + phone.on("edgegen/answers"):
        assert 0 < message.properties.MessageExpiryInterval <= 500
    assert len(phone.on("edgegen/answers")) >= 2
    kept = phone.on("edgegen/shop/last/image") + phone.on("edgegen/shop/last/meta")
    assert not [m for m in kept if hasattr(m.properties, "MessageExpiryInterval")]


def test_a_response_topic_out_of_bounds_is_refused(house, phone):
    phone.send(GENERATE, {"id": "a1", "prompt": "x"}, ResponseTopic="edgegen/shop/generate")
    status = phone.wait_status(id="a1", state="rejected")
    assert status["problems"][0]["field"] == "Response Topic"
    assert len(phone.on(GENERATE)) == 1
    assert house.service.jobs() == []


def test_mqtt_3_1_1_publishers_work_too(house, broker, make_phone):
    old = make_phone(broker.port, paho.MQTTv311)
    old.send(GENERATE, {"id": "a1", "prompt": "a red apple", "transaction": "seven"})
    assert old.wait_status(id="a1", state="queued")["transaction"] == "seven"


def test_on_a_slow_card_jobs_that_come_together_share_a_commit(house, phone):
    house.queue.commit_s = 0.05
    for number in range(40):
        phone.client.publish("edgegen/shop/generate", json.dumps({"id": f"j{number}", "prompt": "a cat"}), 1)
        if number % 10 == 5:
            phone.client.publish("edgegen/shop/generate", b'{"id": "junk"}', 1)
    phone.send("edgegen/shop/cancel", "j39")  # behind the job that it cancels
    wait_for(lambda: len(phone.statuses(state="queued")) == 40, "all are queued")
    phone.wait_status(id="j39", state="cancelled")
    assert len(phone.statuses(id="junk", state="rejected")) == 4
    assert [s["id"] for s in phone.statuses(state="queued")] == [f"j{n}" for n in range(40)]
    assert sum(house.queue.batches) == 40
    assert len(house.queue.batches) <= 20, house.queue.batches


def test_a_job_that_cannot_be_stored_is_delivered_again(house, phone, caplog):
    house.queue.is_disk_full = True
    phone.send(GENERATE, {"id": "a1", "prompt": "a red apple"})
    wait_for(lambda: "left unacknowledged" in caplog.text, "the failure is logged")
    assert not phone.statuses(id="a1")
    house.queue.is_disk_full = False
    phone.wait_status(id="a1", state="queued")
    assert [job.id for job in house.service.jobs()] == ["a1"]
    phone.send(GENERATE, {"id": "a2", "prompt": "a red apple"})
    phone.wait_status(id="a2", state="queued")
    assert len(phone.statuses(id="a1", state="queued")) == 1


def test_a_qos_0_command_that_cannot_be_stored_is_rejected(house, phone):
    house.queue.is_disk_full = True
    phone.send(GENERATE, {"id": "a1", "prompt": "a red apple"}, qos=0)
    assert phone.wait_status(id="a1", state="rejected")["code"] == "storage"


def test_a_picture_that_is_gone_is_no_message(house, phone):
    house.picture = None
    phone.send(GENERATE, {"id": "a1", "prompt": "a red apple"})
    phone.wait_status(id="a1", state="queued")
    house.run_next()
    phone.wait_status(id="a1", state="done")
    phone.send(GENERATE, {"id": "a2", "prompt": "a red apple"})
    phone.wait_status(id="a2", state="queued")
    assert not phone.on("edgegen/shop/last/image")


def test_below_the_disk_reserve_a_new_job_is_refused_and_a_known_one_is_not(house, phone):
    phone.send(GENERATE, {"id": "early", "prompt": "a red apple"})
    phone.wait_status(id="early", state="queued")
    house.service._reserve = DiskReserve([house.folder], GallerySettings(reserve_mb=10**7), lambda _: 0)
    phone.send(GENERATE, {"id": "late", "prompt": "a red apple"})
    status = phone.wait_status(id="late", state="rejected")
    assert status["code"] == "disk_full"
    assert "gallery.reserve_mb keeps 10000000" in status["reason"]
    phone.send(GENERATE, {"id": "early", "prompt": "a red apple"})
    house.run_next()
    phone.wait_status(id="early", state="done")
    assert [status["id"] for status in phone.statuses(state="rejected")] == ["late"]


@pytest.mark.parametrize("is_on", [True, False])
def test_previews_are_published_only_when_asked_for_and_not_retained(broker, make_house, make_phone, is_on):
    house, phone = make_house(broker.port, previews=is_on), make_phone(broker.port)
    phone.send(GENERATE, {"id": "a1", "prompt": "a red apple"})
    phone.wait_status(id="a1", state="queued")
    house.queue.claim()
    house.service.report_step("a1", 1, 4)
    jpeg = b"\xff\xd8\xff and so on"
    house.service.report_preview("a1", jpeg)
    house.service.report_step("a1", 4, 4)
    phone.wait_status(id="a1", step=4)
    topic = "edgegen/shop/job/a1/preview"
    if not is_on:
        assert phone.on(topic) == []
        return
    message = phone.wait_message(topic, jpeg)
    assert (message.retain, message.qos) == (False, 0)
    assert message.properties.ContentType == "image/jpeg"
    house.frontend.close()
    assert house.service.preview_listeners == []
