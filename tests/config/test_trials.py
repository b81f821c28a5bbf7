"""A trial: in force until its time, over with its boot, permanent only when confirmed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgegen.config import trials
from edgegen.config.files import load_settings
from edgegen.config.store import backups
from edgegen.config.trials import BootTime, boot_time, current_trial, trial_file
from edgegen.errors import ConfigError

OLD, NEW = '[mqtt]\nhost = "old"\n', '[mqtt]\nhost = "new"\n'
NOW = replace(boot_time(), seconds=1000.0)  # of this boot; whole seconds, so that sums are exact


@pytest.fixture
def main(tmp_path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(OLD)
    return path


def host(main: Path) -> str:
    return load_settings(main, {}).mqtt.host


def later(seconds: float) -> BootTime:
    return replace(NOW, seconds=NOW.seconds + seconds)


def test_it_is_in_force_while_the_files_stay_as_they_are(main):
    trials.begin(main, {main: NEW}, 60)
    assert host(main) == "new"
    assert main.read_text() == OLD


def test_it_ends_with_its_time_even_where_nothing_can_be_written(main):
    trial = trials.begin(main, {main: NEW}, 60, NOW)
    assert trial.left_s(later(10)) == 50
    assert current_trial(main, later(59.9)) == trial
    assert current_trial(main, later(60)) is None
    assert trial_file(main).exists(), "nobody had to write for that"


def test_it_ends_with_its_boot(main):
    trials.begin(main, {main: NEW}, 60, NOW)
    assert current_trial(main, BootTime("another boot", 1.0)) is None
    assert current_trial(main, BootTime("", NOW.seconds)) is None, "a kernel that tells no boot"


def test_the_clock_of_the_wall_has_no_part_in_it(main, monkeypatch):
    trials.begin(main, {main: NEW}, 60)
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert host(main) == "new"
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert host(main) == "new"


def test_confirming_makes_it_permanent(main):
    trials.begin(main, {main: NEW}, 60)
    assert trials.confirm(main) == [main]
    assert (main.read_text(), backups(main)[0].read_text()) == (NEW, OLD)
    assert not trial_file(main).exists()


@pytest.mark.parametrize("now", [later(61), BootTime("another boot", 1.0)])
def test_confirming_too_late(main, now):
    trials.begin(main, {main: NEW}, 60, NOW)
    with pytest.raises(ConfigError, match="nothing to confirm"):
        trials.confirm(main, now)
    assert main.read_text() == OLD
    assert not trial_file(main).exists()


def test_a_file_that_was_changed_meanwhile_is_not_overwritten(main):
    trials.begin(main, {main: NEW}, 60)
    main.write_text("# by hand\n")
    with pytest.raises(ConfigError, match="changed since the trial began"):
        trials.confirm(main)
    assert main.read_text() == "# by hand\n"


def test_rolling_back(main):
    trials.begin(main, {main: NEW}, 60)
    assert trials.rollback(main)
    assert host(main) == "old"
    assert not trials.rollback(main)


def test_one_trial_at_a_time(main):
    trials.begin(main, {main: NEW}, 60, NOW)
    with pytest.raises(ConfigError, match="a trial goes on for 50 s more"):
        trials.begin(main, {main: NEW}, 60, later(10))
    trials.begin(main, {main: NEW}, 60, later(60))


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (later(30), ""),
        (later(60), "was rolled back: its time was over"),
        (BootTime("another boot", 5.0), "was rolled back: the machine was restarted"),
    ],
)
def test_whoever_comes_next_clears_it_away(main, now, said):
    trials.begin(main, {main: NEW}, 60, NOW)
    done = trials.sweep(main, now)
    assert done.endswith(said)
    assert trial_file(main).exists() == (not said)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"texts": 5}', b"\xff\x00"])
def test_a_damaged_trial_is_none(main, damage):
    trial_file(main).write_bytes(damage)
    assert host(main) == "old"
    assert "damaged" in trials.sweep(main)
    assert not trial_file(main).exists()


def test_a_confirmation_cut_short_is_finished_after_the_reboot(main, tmp_path):
    """Two files, and the power fails between them."""
    other = tmp_path / "conf.d/10.toml"
    other.parent.mkdir()
    other.write_text("[limits]\nside = 512\n")
    trials.begin(main, {main: NEW, other: "[limits]\nside = 256\n"}, 60, NOW)
    main.chmod(0o640)

    real = trials.replace_config

    def fail_at_the_second(file, text):
        if file == other:
            raise KeyboardInterrupt
        return real(file, text)

    trials.replace_config = fail_at_the_second
    try:
        with pytest.raises(KeyboardInterrupt):
            trials.confirm(main, later(1))
    finally:
        trials.replace_config = real
    assert (main.read_text(), other.read_text()) == (NEW, "[limits]\nside = 512\n")
    settings = load_settings(main, {})
    assert (settings.mqtt.host, settings.limits.side) == ("new", 256)
    assert "permanent now" in trials.sweep(main, BootTime("another boot", 5.0))
    assert other.read_text() == "[limits]\nside = 256\n"
    assert not trial_file(main).exists()


def test_a_device_without_any_file(tmp_path):
    main = tmp_path / "edgegen/config.toml"
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    trials.begin(main, {main: NEW}, 60)
    assert load_settings(None, environ).mqtt.host == "new"
    trials.rollback(main)
    assert load_settings(None, environ).mqtt.host == "localhost"


def test_its_file_is_as_private_as_the_configuration(main):
    main.chmod(0o600)
    trials.begin(main, {main: NEW}, 60)
    assert trial_file(main).stat().st_mode & 0o777 == 0o600
