"""The text console behind the picture, on real virtual terminals where the machine lends us some."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
from pathlib import Path

import pytest

from edgegen.frontends.display.console import COME, KD_GRAPHICS, KDGETMODE, LEAVE, VT_GETSTATE, Console
from tests.support import wait_for

NOBODYS = (9, 8)  # one of them, in case the other is in view
VT_ACTIVATE = 0x5606
KD_TEXT = 0
nobody_is_looking = pytest.mark.skipif(
    Path("/dev/fb0").exists() or Path("/dev/dri").exists(), reason="somebody may be looking at this machine"
)


@pytest.fixture
def terminal():
    """Its file; at the end the terminal that was in view is so again."""
    if os.geteuid():
        pytest.skip("only root, or who it belongs to, may change a terminal's mode")
    try:
        home = active()
        fd = os.open(f"/dev/tty{next(n for n in NOBODYS if n != home)}", os.O_RDWR | os.O_NOCTTY)
    except OSError as err:
        pytest.skip(f"no virtual terminals here: {err}")
    yield fd
    switch_to(home)
    wait_for(lambda: active() == home)
    os.close(fd)


@pytest.fixture
def console(terminal):
    made = Console(terminal, lambda: None)
    yield made
    made.close()


def mode_of(fd):
    return struct.unpack("i", fcntl.ioctl(fd, KDGETMODE, struct.pack("i", 7)))[0]


def ask_kernel(request, argument):
    fd = os.open("/dev/tty0", os.O_RDWR | os.O_NOCTTY)
    try:
        return fcntl.ioctl(fd, request, argument)
    finally:
        os.close(fd)


def active():
    return struct.unpack("HHH", ask_kernel(VT_GETSTATE, bytes(6)))[0]


def switch_to(number):
    ask_kernel(VT_ACTIVATE, number)


def number_of(fd):
    return int(os.ttyname(fd).removeprefix("/dev/tty"))


def test_graphics_mode_until_it_is_closed(terminal, console):
    console.open()
    console.open()  # with other settings, for instance
    assert (console.name, mode_of(terminal)) == (f"tty{number_of(terminal)}", KD_GRAPHICS)
    console.close()
    console.close()
    assert (console.name, mode_of(terminal)) == ("", KD_TEXT)
    assert {signal.getsignal(number) for number in (LEAVE, COME)} == {signal.SIG_DFL}


@nobody_is_looking
def test_whoever_switches_away_gets_there_and_back(terminal, console):
    ours, home = number_of(terminal), active()
    console.open()
    assert not console.is_in_view
    for number, is_in_view in ((ours, True), (home, False), (ours, True)):
        switch_to(number)
        wait_for(lambda wanted=is_in_view: console.attend() or console.is_in_view == wanted)
        wait_for(lambda wanted=number: active() == wanted)


@nobody_is_looking
def test_nobody_gets_away_while_a_picture_is_being_drawn(terminal, console):
    ours, home = number_of(terminal), active()
    console.open()
    switch_to(ours)
    wait_for(lambda: console.attend() or console.is_in_view)
    switch_to(home)
    wait_for(lambda: console._asked)
    assert active() == ours, "the kernel waits for our word"
    console.attend()
    wait_for(lambda: active() == home)


@pytest.mark.parametrize("kind", ["file", "pty", "none"])
def test_what_is_no_terminal_of_this_machine_is_left_alone(kind, tmp_path):
    fds = {"file": lambda: [os.open(tmp_path, os.O_RDONLY)], "pty": os.openpty, "none": lambda: [-1]}[kind]()
    console = Console(fds[-1], lambda: None)
    console.open()
    assert (console.name, console.is_in_view) == ("", True)
    console.close()
    for fd in fds:
        if fd >= 0:
            os.close(fd)
