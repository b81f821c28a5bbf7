"""Rates and words: what is refused, with which code, and what the refusal says."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edgegen.errors import BadRequest, BlockedPrompt, RateLimited
from edgegen.frontends.mqtt.messages import rejection
from edgegen.jobs.admission import (
    Admission,
    PromptRules,
    RateLimiter,
    TokenBucket,
    plain_words,
    prompt_rules,
)
from edgegen.jobs.service import JobService
from edgegen.settings import PromptSettings, RateSettings

from .conftest import request


def test_a_bucket_gives_a_burst_and_then_its_rate():
    bucket = TokenBucket(per_min=6, burst=2)
    assert [bucket.take(100.0) for _ in range(3)] == [0, 0, 10]
    assert bucket.take(104.0) == pytest.approx(6)
    assert bucket.take(110.5) == 0
    assert bucket.take(1e6) == 0
    assert [bucket.take(1e6) for _ in range(2)] == [0, 10], "a long rest fills no more than the burst"


def test_a_clock_that_stands_or_goes_back_gives_nothing():
    bucket = TokenBucket(per_min=60, burst=1)
    assert bucket.take(100.0) == 0
    assert bucket.take(50.0) == 1
    assert bucket.take(50.0) == 1


def test_each_kind_of_trigger_has_its_own_rate():
    now = [0.0]
    limiter = RateLimiter(RateSettings(mqtt_per_min=2, buttons_per_min=60, burst=1), lambda: now[0])
    limiter.check("mqtt")
    with pytest.raises(RateLimited, match="at most 2 jobs a minute are taken from mqtt: try again in 30 s"):
        limiter.check("mqtt")
    with pytest.raises(RateLimited):
        limiter.check("home_assistant")
    limiter.check("button:17")
    with pytest.raises(RateLimited):
        limiter.check("button:4")
    for _ in range(100):
        limiter.check("cli")
    now[0] = 30.0
    limiter.check("mqtt")


def test_a_refused_sender_learns_when_to_try_again():
    status = rejection(RateLimited("try again in 30 s", 29.987), "a")
    assert (status["code"], status["retry_after_s"]) == ("rate_limited", 29.99)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A red, APPLE!", ("a", "red", "apple")),
        ("Ça c'est l'ÉTÉ", ("ca", "c", "est", "l", "ete")),
        ("Straße", ("strasse",)),
        ("ｇｕｎ g\u200bun g\u00adun", ("gun", "gun", "gun")),
        ("a_gun (gun:1.3)", ("a", "gun", "gun", "1", "3")),
        ("крас\u0301ный 苹果", ("красныи", "苹果")),
        ("...", ()),
    ],
)
def test_words_are_compared_without_case_accents_and_tricks(text, words):
    assert plain_words(text) == words


@pytest.mark.parametrize("prompt", ["a Gun", "GÜN", "big  rocket-launcher here", "(gun:1.2)"])
def test_a_blocked_word_or_phrase_is_refused_and_not_repeated(prompt):
    rules = PromptRules(PromptSettings(block=("gun", "rocket launcher")))
    with pytest.raises(BlockedPrompt) as refused:
        rules.check(prompt)
    assert refused.value.code == "blocked_prompt"
    assert not {"gun", "rocket", "launcher"} & set(plain_words(str(refused.value)))


@pytest.mark.parametrize("prompt", ["a gunner", "rocket and launcher", "launcher rocket", "beguns"])
def test_only_whole_words_and_whole_phrases_count(prompt):
    PromptRules(PromptSettings(block=("gun", "rocket launcher"))).check(prompt)


def test_an_allow_list_lets_nothing_else_through_and_block_wins(tmp_path):
    file = tmp_path / "words"
    file.write_text("\ufeff# fruit\nÄpfel\n\na red\n", "utf-8")
    rules = PromptRules(PromptSettings(allow=("tree",), allow_file=file, block=("red tree",)))
    rules.check("A red APFEL".replace("APFEL", "ÄPFEL"))
    for prompt in ("a red car", "a red tree"):
        with pytest.raises(BlockedPrompt):
            rules.check(prompt)


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"x" * 1_000_001])
def test_a_list_that_cannot_be_read_closes_the_kiosk(tmp_path, caplog, content):
    file = tmp_path / "words"
    if content is not None:
        file.write_bytes(content)
    rules = prompt_rules(PromptSettings(block_file=file))
    with pytest.raises(BlockedPrompt, match="its word list cannot be read"):
        rules.check("a red apple")
    assert "prompts.block_file" in caplog.text


def test_a_redelivery_is_never_refused_and_a_blocked_prompt_costs_nothing(queue):
    rates = RateLimiter(RateSettings(cli_per_min=1, burst=1), lambda: 0.0)
    service = JobService(queue, admission=Admission(PromptRules(PromptSettings(block=("gun",))), rates))
    with pytest.raises(BlockedPrompt):
        service.submit(request("x", prompt="a gun"))
    job = service.submit(request("a"))
    assert service.submit(request("a")) == job
    with pytest.raises(RateLimited):
        service.submit(request("b"))
    assert [job.id for job in queue.list()] == ["a"]


def test_embeddings_that_are_not_there_are_refused_at_the_door(queue, tmp_path):
    for name in ("ink.safetensors", "styles/wax.safetensors", "old.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    rates = RateLimiter(RateSettings(), monotonic=lambda: 0.0)
    service = JobService(queue, admission=Admission(PromptRules(PromptSettings()), rates, tmp_path))
    for name in ("ink", "ink,", "styles/wax.safetensors"):
        service.submit(request(name.strip(",/.")[:3], prompt=f"a (embedding:{name}:1.2) cat"))
    for name, said in (
        ("inc", "did you mean embedding:ink"),
        ("../secret", "there are ink, styles/wax"),
        ("old", "as a pickle only"),
    ):
        with pytest.raises(BadRequest, match=said):
            service.submit(request("x", prompt=f"embedding:{name}"))
    service.submit(replace(request("y", prompt="embedding:no"), prompt_syntax="a1111"))
    workflow = {"6": {"class_type": "CLIPTextEncode", "inputs": {"text": "embedding:no", "clip": ["4", 1]}}}
    with pytest.raises(BadRequest, match="embedding:no"):
        service.submit(replace(request("z"), workflow=json.dumps(workflow)))


def test_of_jobs_that_come_together_the_first_get_the_tokens(queue):
    rates = RateLimiter(RateSettings(mqtt_per_min=1, burst=2), monotonic=lambda: 0.0)
    service = JobService(queue, admission=Admission(PromptRules(PromptSettings()), rates))
    asked = [replace(request(name), source="mqtt") for name in ("a", "a", "b", "c")]
    answers = service.submit_all(asked)
    assert [type(answer).__name__ for answer in answers] == ["Job", "Job", "Job", "RateLimited"]
