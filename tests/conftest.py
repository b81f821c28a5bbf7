"""Fixtures that many tests share."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.certificates import Authority
from tests.support import Broker

# as a shell's background jobs have them, those of `nohup` too, and their children
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A busy machine is slow, not wrong: only pytest's timeout ends a test.
hypothesis.settings.register_profile("edgegen", deadline=None)
hypothesis.settings.load_profile("edgegen")


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """Where a socket may be: what pytest's own folders are called is too long for one."""
    folder = tempfile.mkdtemp(prefix="eg-", dir="/tmp")
    yield Path(folder) / "edgegen.sock"
    shutil.rmtree(folder)


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Start brokers with extra lines of configuration; all are stopped at the end."""
    brokers: list[Broker] = []

    def make(extra_config: str = "") -> Broker:
        folder = tmp_path / f"broker{len(brokers)}"
        folder.mkdir()
        brokers.append(Broker(folder, extra_config))
        brokers[-1].start()
        return brokers[-1]

    yield make
    for broker in brokers:
        broker.stop()


@pytest.fixture
def broker(make_broker: Callable[..., Broker]) -> Broker:
    return make_broker()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whoever asks for it needs openssl."""
    return Authority(tmp_path_factory.mktemp("authority"))
