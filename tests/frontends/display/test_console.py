"""The text console behind the picture, on a real virtual terminal where the machine lends us one."""

from __future__ import annotations

import fcntl
import os
import struct
import threading

import pytest

from edgegen.frontends.display.console import KD_GRAPHICS, KD_TEXT, KDGETMODE, Console

TERMINAL = "/dev/tty9"  # nobody's


@pytest.fixture
def terminal():
    try:
        fd = os.open(TERMINAL, os.O_RDWR | os.O_NOCTTY)
        mode_of(fd)
    except OSError as err:
        pytest.skip(f"no virtual terminal here: {err}")
    if os.geteuid():
        pytest.skip("only root, or who it belongs to, may change a terminal's mode")
    yield fd
    os.close(fd)


def mode_of(fd):
    return struct.unpack("i", fcntl.ioctl(fd, KDGETMODE, struct.pack("i", 7)))[0]


def test_graphics_mode_until_it_is_closed(terminal):
    console = Console(terminal, lambda: None)
    console.open()
    assert (console.name, mode_of(terminal)) == ("tty9", KD_GRAPHICS)
    console.close()
    console.close()
    assert mode_of(terminal) == KD_TEXT


def test_whether_it_is_in_view_is_read_from_the_kernel(terminal, tmp_path):
    active = tmp_path / "active"
    console = Console(terminal, lambda: None, active)
    console.open()
    try:
        assert console.is_in_view, "a kernel that does not tell is no reason to draw nothing"
        active.write_text("tty9\n")
        assert console.is_in_view
        active.write_text("tty2\n")
        assert not console.is_in_view
    finally:
        console.close()


@pytest.mark.parametrize("kind", ["file", "pty", "none"])
def test_what_is_no_terminal_of_this_machine_is_left_alone(kind, tmp_path):
    fds = {"file": lambda: [os.open(tmp_path, os.O_RDONLY)], "pty": os.openpty, "none": lambda: [-1]}[kind]()
    before = threading.active_count()
    console = Console(fds[-1], lambda: None)
    console.open()
    assert (console.name, console.is_in_view, threading.active_count()) == ("", True, before)
    console.close()
    for fd in fds:
        if fd >= 0:
            os.close(fd)
