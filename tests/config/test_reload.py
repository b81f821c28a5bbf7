"""What a running daemon makes of a changed configuration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgegen.config import trials
from edgegen.config.files import salvaged_settings
from edgegen.config.reload import ConfigSource, LiveConfig, changed_keys
from edgegen.settings import Settings


@pytest.fixture
def main(tmp_path, monkeypatch) -> Path:
    for name in [name for name in os.environ if name.startswith("EDGEGEN_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "config.toml"
    path.write_text("[limits]\nside = 512\n")
    return path


@pytest.fixture
def live(main) -> LiveConfig:
    source = ConfigSource(main)
    return LiveConfig(source.load(), source)


def test_what_can_change_live_does_and_the_rest_is_named(main, live):
    main.write_text(
        '[node]\nname = "other"\n[limits]\nside = 256\n[queue]\nmax_jobs = 5\n'
        '[gallery]\ndir = "/srv/pictures"\nmax_mb = 10\n[[buttons]]\npin = 4\nprompts = ["x"]\n'
    )
    assert live.reload() == ["gallery.max_mb", "limits.side", "buttons"]
    assert live.waiting == ["node.name", "queue.max_jobs", "gallery.dir"]
    now = live.settings
    assert (now.node, now.queue, now.gallery.dir) == (Settings().node, Settings().queue, None)
    assert (now.limits.side, now.gallery.max_mb, now.buttons[0].pin) == (256, 10, 4)
    main.write_text("[limits]\nside = 256\n")
    assert live.reload() == ["gallery.max_mb", "buttons"]
    assert live.waiting == []


def test_a_broken_one_changes_nothing_and_says_so(main, live, caplog):
    main.write_text("[limits]\nside = 256\nsteps = 0\n")
    assert live.reload() == []
    assert live.settings.limits.side == 512
    said = f"limits.steps: 0 is not allowed: 1 to 1000 ({main}:3)"
    assert live.describe()["problems"] == [said]
    assert f"the configuration stays as it was: {said}" in caplog.text
    main.write_text("")
    assert live.reload() == ["limits.side"]
    assert live.describe()["problems"] == []


def test_a_trial_is_watched_and_rolled_back(main, live):
    assert live.trial_left_s() is None
    trials.begin(main, {main: "[limits]\nside = 64\n"}, 60)
    assert live.reload() == ["limits.side"]
    assert 0 < live.trial_left_s() <= 60
    assert 0 < live.describe()["trial_left_s"] <= 60
    over = trials.boot_time()
    stored = trials.stored_trial(main)
    main.with_name("config.toml.trial").unlink()
    trials.begin(main, stored.texts, 0.0, over)
    assert live.trial_left_s() == 0
    assert live.reload() == ["limits.side"]
    assert live.settings.limits.side == 512
    assert live.trial_left_s() is None
    assert not main.with_name("config.toml.trial").exists()


def test_changed_keys():
    new = Settings.model_validate({"mqtt": {"port": 1}, "buttons": [{"pin": 1, "prompts": ["x"]}]})
    assert changed_keys(Settings(), new) == ["mqtt.port", "buttons"]
    assert changed_keys(new, new) == []


@pytest.mark.parametrize(
    ("text", "name", "side"),
    [
        ('[node]\nname = "kiosk"\n[limits]\nside = 0\n', "kiosk", 1024),
        ('[node]\nname = "kiosk"\nnmae = 1\n[[buttons]]\npin = 4\n', "kiosk", 1024),
        ('[node]\nname = "a b"\n[limits]\nside = 64\n', "edgegen", 64),
        ("node = 5\nnonsense = 1\n[limits]\nside = 64\n", "edgegen", 64),
        ("[node\n", "edgegen", 1024),
    ],
)
def test_what_is_right_can_be_salvaged(main, text, name, side):
    main.write_text(text)
    settings = salvaged_settings(main, {})
    assert (settings.node.name, settings.limits.side) == (name, side)
