"""`edgegen support-bundle`: enough to help with, and nothing secret, wherever it was planted."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile

import pytest

from edgegen.cli import bundle
from edgegen.cli.redact import Redactor
from edgegen.config.files import database_path, salvaged_settings
from edgegen.jobs.job import JobRequest
from edgegen.jobs.queue import JobQueue

PASSWORD = 'Sésame "0pen"/42'
KEY_LINE = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"
PEM = f"-----BEGIN PRIVATE KEY-----\n{KEY_LINE}\nAAAAplanted\n-----END PRIVATE KEY-----\n"
PROMPT = "my aunt's secret garden"
PLANTED = [
    *("Sésame", "0pen", "S%C3%A9same", "S\\u00e9same"),  # the password, in any writing
    *(KEY_LINE, "AAAAplanted", "second-line-of-credentials", "swordfish", "hunter2", "t0ken-of-love"),
    *("env-sesame", "systemd-sesame"),
]


def unpack(data: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {
            m.name.removeprefix("edgegen-support/"): archive.extractfile(m).read().decode() for m in archive
        }


def fail_a_job(device, reason):
    queue = JobQueue(database_path(salvaged_settings(device.config, {}).node))
    queue.enqueue(JobRequest("j1", PROMPT, steps=7))
    queue.fail(queue.claim(), "engine_failed", reason)
    queue.close()


@pytest.fixture
def planted(device, monkeypatch):
    """A device with secrets in every place where one has been seen."""
    secret, key = device.home / "broker-password", device.home / "key.pem"
    secret.write_text(f"{PASSWORD}\nsecond-line-of-credentials\n")
    key.write_text(PEM)
    credentials = device.home / "credentials"
    credentials.mkdir()
    (credentials / "edgegen.mqtt-password").write_text("systemd-sesame\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    monkeypatch.setenv("EDGEGEN_API_TOKEN", "t0ken-of-love")
    monkeypatch.setenv("EDGEGEN_MQTT__PASSWORD", "env-sesame")
    device.write_config(
        f'[mqtt]\nenabled = true\nport = 9\nusername = "pi"\npassword_file = "{secret}"\n'
        'host = "pi:swordfish@broker.invalid"\npassword = "hunter2"\n'
        f'ca_file = """{PEM}"""\n[[buttons]]\npin = 4\nprompts = ["{PROMPT}", "a cat"]\n'
    )
    fail_a_job(device, f"{PROMPT}: cannot reach mqtts://pi:swordfish@broker.invalid with {PASSWORD!r} {PEM}")
    return device


def test_no_secret_leaves_wherever_it_was_planted(planted):
    result = planted.run("support-bundle", "-o", "out.tar.gz")
    assert result.exit_code == 0, result.output
    data = (planted.home / "out.tar.gz").read_bytes()
    everything = gzip.decompress(data).decode("utf-8", "surrogateescape")
    assert [secret for secret in PLANTED if secret in everything] == []
    assert PROMPT not in everything
    assert (planted.home / "out.tar.gz").stat().st_mode & 0o777 == 0o600
    assert "[removed]@broker.invalid" in everything, "where it wanted to go stays readable"


def test_the_secrets_are_really_there_before_they_are_removed(planted, monkeypatch):
    """So that the test above can fail."""
    monkeypatch.setattr(Redactor, "clean", lambda self, text: text)
    result = planted.run("support-bundle", "-o", "raw.tar.gz")
    assert result.exit_code == 0, result.output
    everything = "\n".join(unpack((planted.home / "raw.tar.gz").read_bytes()).values())
    for secret in ("0pen", KEY_LINE, "swordfish"):
        assert secret in everything


def test_it_tells_what_helps(device):
    fail_a_job(device, "out of memory")
    device.run("support-bundle", "-o", "out.tar.gz")
    parts = unpack((device.home / "out.tar.gz").read_bytes())
    assert set(parts) == {
        "README.txt", "doctor.txt", "config.toml", "environment.txt", "versions.txt", "status.json",
        "jobs.json", "storage.json", "machine.txt", "units.txt", "journal.txt", "kernel.txt",
    }  # fmt: skip
    broken = [text for text in parts.values() if "this part could not be made" in text]
    assert broken == []
    assert "onnxruntime " in parts["versions.txt"]
    assert f"{device.config}:" in parts["config.toml"], "with the origin of every value"
    assert "pack" in parts["doctor.txt"]
    (failure,) = json.loads(parts["jobs.json"])
    assert (failure["code"], failure["reason"]) == ("engine_failed", "out of memory")
    assert (failure["request"]["steps"], failure["request"]["prompt_chars"]) == (7, len(PROMPT))
    assert "edgegen.db" in json.loads(parts["storage.json"])["database"]
    assert json.loads(parts["status.json"])["jobs"]["failed"] == 1


def test_prompts_only_when_asked_for(device):
    fail_a_job(device, "out of memory")
    device.run("support-bundle", "-o", "out.tar.gz", "--with-prompts")
    parts = unpack((device.home / "out.tar.gz").read_bytes())
    assert json.loads(parts["jobs.json"])[0]["request"]["prompt"] == PROMPT


def test_it_can_go_through_a_pipe_and_overwrites_nothing(device):
    piped = device.run("support-bundle", "-o", "-")
    assert "doctor.txt" in unpack(piped.stdout_bytes)
    (device.home / "mine").write_text("mine")
    assert device.run("support-bundle", "-o", "mine").exit_code == 6
    assert (device.home / "mine").read_text() == "mine"


def test_it_works_with_a_broken_configuration(device):
    device.config.write_text("[mqtt\n")
    device.run("support-bundle", "-o", "out.tar.gz")
    parts = unpack((device.home / "out.tar.gz").read_bytes())
    assert f"# wrong: {device.config}:1" in parts["config.toml"]


def test_a_huge_part_is_cut_and_keeps_its_end():
    text = bundle.bounded("é" * bundle.MAX_PART_BYTES + "the last line")
    assert len(text.encode()) <= bundle.MAX_PART_BYTES + 40
    assert text.startswith("[the beginning is cut off]") and text.endswith("the last line")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("mqtt://u:p@h:1883/x", "mqtt://[removed]@h:1883/x"),
        ("mqtt://u:p@ss@h/x", "mqtt://[removed]@h/x"),
        ('{"password": "abc", "port": 1}', '{"password": [removed], "port": 1}'),
        ("API_TOKEN=abc next", "API_TOKEN=[removed] next"),
        ("password_file = '/etc/x'", "password_file = '/etc/x'"),
        ("at 12:30 write to me@home", "at 12:30 write to me@home"),
        ("the cat is ab", "the cat is [removed]"),  # "ab" is the known secret
        ("a cabin", "a cabin"),
        (PEM.replace("\n", "\\n"), "[removed]\\n"),
    ],
)
def test_what_is_removed_and_what_stays(text, clean):
    assert Redactor({"ab"}).clean(text) == clean


def test_no_root_is_needed(device):
    assert os.environ["HOME"] == str(device.home)
    assert device.run("support-bundle").stdout.startswith("edgegen-support-edgegen-")
