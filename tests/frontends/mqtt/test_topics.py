import pytest

from edgegen.frontends.mqtt.topics import Topics

TOPICS = Topics("edgegen", "shop")


def test_topics_follow_the_contract():
    assert TOPICS.generate == "edgegen/shop/generate"
    assert TOPICS.status("a1") == "edgegen/shop/job/a1/status"
    assert TOPICS.last_image == "edgegen/shop/last/image"


@pytest.mark.parametrize("topic", ["edgegen/replies/phone", "edgegen/shop/answers/7", "edgegen/x"])
def test_answers_may_go_below_the_base(topic):
    assert TOPICS.response_problem(topic) is None


@pytest.mark.parametrize(
    ("topic", "why"),
    [
        ("other/replies", "below edgegen/"),
        ("edgegen", "below edgegen/"),
        ("edgegenx/replies", "below edgegen/"),
        ("$SYS/x", "below edgegen/"),
        ("edgegen/+/x", "wildcard"),
        ("edgegen/#", "wildcard"),
        ("edgegen/a\0b", "NUL"),
        ("edgegen/shop/generate", "command"),
        ("edgegen/fleet/generate", "command"),
        ("edgegen/other/cancel", "command"),
        ("edgegen/other/availability", "availability"),
        ("edgegen/other/last/image", "last"),
        ("edgegen/other/home/generate/set", "home"),
        ("edgegen/" + "x" * 600, "512 bytes"),
    ],
)
def test_answers_may_not_go_where_they_do_harm(topic, why):
    assert why in TOPICS.response_problem(topic)
