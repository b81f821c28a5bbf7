"""The front's end of the Unix socket: engines report here, shells ask here.

Messages are one JSON object a line. The first says who is there: `{"type": "hello", "role": "engine" |
"shell" | "display", "pid": 123}`. A display is a shell that is counted in the status.

    engine -> front   claimed {id}, step {id, step, steps}, preview {id, jpeg}, done {id}, failed {id}, idle
    front -> engine   wake, stop, retire (end after the job at hand: the settings have changed)
    shell -> front    status, jobs, submit {request}, cancel {id}, watch {previews?}; each has one answer: its
                      own type with the result, or error {code, reason}; watch goes on with event {...}, and
                      with preview {id, jpeg} if asked
    front -> display  config, when the settings have been read again

A peer that breaks these rules, or does not read what it asked for, is dropped; the others never notice.
One thread serves all of them and sleeps until somebody says something.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import logging
import os
import selectors
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import EdgegenError, StorageError
from .events import JobEvent
from .job import Job
from .service import JobService
from .shell import answer_shell, describe_event
from .wire import LineBuffer, Message, WireError, encode

log = logging.getLogger(__name__)

MAX_PEERS = 32
MAX_UNSENT = 1 << 20
ROLES = ("engine", "shell", "display")
SOCKET_MODE = 0o660


@dataclass(eq=False)
class Peer:
    """One connection. `role` is empty until it has said hello."""

    socket: socket.socket
    role: str = ""
    pid: int = 0
    watches: bool = False
    wants_previews: bool = False
    lines: LineBuffer = field(default_factory=LineBuffer)
    unsent: bytearray = field(default_factory=bytearray)

    def __str__(self) -> str:
        return f"{self.role or 'peer'} {self.pid or ''}".strip()


class Hub:
    """Serves the socket `path` from `start` to `close`.

    Args:
        submit: turns a shell's request, a dictionary, into a job; raises EdgegenError.
        on_engine: called on the hub's thread with every message of an engine, and with
            `{"type": "connected"}` and `{"type": "disconnected"}`; both carry its pid.
        about: what else belongs into the answer to `status`.
    """

    def __init__(
        self,
        path: Path,
        service: JobService,
        submit: Callable[[Message], Message],
        on_engine: Callable[[Message], object] = lambda _: None,
        about: Callable[[], Message] = dict,
    ):
        self.path = path
        self._service = service
        self._submit = submit
        self._on_engine = on_engine
        self._about = about
        self._selector = selectors.DefaultSelector()
        self._peers: dict[int, Peer] = {}
        self._calls: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._wake_read, self._wake_write = socket.socketpair()
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._is_closing = False
        self._unsubscribe: Callable[[], None] = lambda: None

    @property
    def has_engine(self) -> bool:
        return any(peer.role == "engine" for peer in tuple(self._peers.values()))

    @property
    def has_display(self) -> bool:
        return any(peer.role == "display" for peer in tuple(self._peers.values()))

    @property
    def is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def open(self) -> None:
        """Make the socket; who connects waits until `start`.

        Raises:
            StorageError: the socket cannot be made, or another front serves it.
        """
        self._listener = _listen(self.path)

    def start(self) -> None:
        """Serve; opens the socket first where that was not done. Raises as `open` does."""
        if self._listener is None:
            self.open()
        assert self._listener is not None
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._wake_read.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._unsubscribe = self._service.subscribe(self._on_event)
        self._service.preview_listeners.append(self._on_preview)
        self._thread = threading.Thread(target=self._serve, name="hub", daemon=True)
        self._thread.start()

    def wake_engine(self) -> None:
        """There is work."""
        self._call(lambda: self._send_engines({"type": "wake"}))

    def stop_engine(self) -> None:
        """Give the job back and end."""
        self._call(lambda: self._send_engines({"type": "stop"}))

    def retire_engine(self) -> None:
        """End after the job at hand; whoever keeps engines starts a new one."""
        self._call(lambda: self._send_engines({"type": "retire"}))

    def tell_config(self) -> None:
        """The settings have been read again: displays, which read them by themselves, do the same."""
        self._call(
            lambda: self._send_if({"type": "config"}, lambda peer: peer.role == "display" and peer.watches)
        )

    def close(self) -> None:
        """Stop serving and remove the socket; safe to call twice."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        self._unsubscribe()
        with contextlib.suppress(ValueError):
            self._service.preview_listeners.remove(self._on_preview)
        self._is_closing = True
        self._call(lambda: None)
        if self._thread:
            self._thread.join()
        self._selector.close()
        for open_socket in (listener, self._wake_read, self._wake_write):
            open_socket.close()
        for peer in self._peers.values():
            peer.socket.close()
        self._peers.clear()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _on_event(self, event: JobEvent) -> None:
        if event.kind == "queued":
            self.wake_engine()
        if any(peer.watches for peer in tuple(self._peers.values())):
            message = {"type": "event", **describe_event(event)}
            self._call(lambda: self._send_if(message, lambda peer: peer.watches))

    def _on_preview(self, job: Job, jpeg: bytes) -> None:
        if any(peer.wants_previews for peer in tuple(self._peers.values())):
            message = {"type": "preview", "id": job.id, "jpeg": base64.b64encode(jpeg).decode()}
            self._call(lambda: self._send_if(message, lambda peer: peer.wants_previews))

    def _call(self, function: Callable[[], None]) -> None:
        """Have the hub's thread do it."""
        with self._lock:
            self._calls.append(function)
        with contextlib.suppress(OSError):  # closed, or full of wake-ups already
            self._wake_write.send(b"\0", socket.MSG_DONTWAIT)

    def _serve(self) -> None:
        while not self._is_closing:
            for key, ready in self._selector.select():
                if key.fileobj is self._wake_read:
                    self._run_calls()
                elif key.fileobj is self._listener:
                    self._accept()
                elif peer := self._peers.get(key.fd):
                    self._serve_peer(peer, ready)

    def _run_calls(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_read.recv(4096)
        with self._lock:
            calls, self._calls = self._calls, []
        for call in calls:
            try:
                call()
            except Exception:
                log.exception("the hub goes on after")

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError as err:
            log.warning("a connection was lost before it was accepted: %s", err)
            return
        connection.setblocking(False)
        if len(self._peers) >= MAX_PEERS and not self._make_room():
            log.warning("refused a connection: %d are open already", MAX_PEERS)
            connection.close()
            return
        self._peers[connection.fileno()] = Peer(connection)
        self._selector.register(connection, selectors.EVENT_READ)

    def _make_room(self) -> bool:
        """Drop the oldest peer that never said who it is."""
        silent = next((peer for peer in self._peers.values() if not peer.role), None)
        if silent is not None:
            self._drop(silent, WireError(f"it never said hello, and {MAX_PEERS} connections are open"))
        return silent is not None

    def _serve_peer(self, peer: Peer, ready: int) -> None:
        try:
            if ready & selectors.EVENT_WRITE:
                self._flush(peer)
            if ready & selectors.EVENT_READ:
                data = peer.socket.recv(65536)
                if not data:
                    self._drop(peer, None)
                for message in peer.lines.feed(data):
                    self._handle(peer, message)
        except BlockingIOError:
            return
        except (OSError, WireError) as err:
            self._drop(peer, err)
        except Exception as err:
            log.exception("a message of %s could not be handled", peer)
            self._drop(peer, err)

    def _handle(self, peer: Peer, message: Message) -> None:
        if not peer.role:
            self._greet(peer, message)
        elif peer.role == "engine":
            self._on_engine({**message, "pid": peer.pid})
        elif message["type"] == "watch":
            peer.watches, peer.wants_previews = True, message.get("previews") is True
            self._send(peer, {"type": "watch"})
        else:
            about = {"pid": os.getpid(), "engine": self.has_engine, "display": self.has_display}
            self._send(peer, answer_shell(message, self._service, self._submit, about | self._about()))

    def _greet(self, peer: Peer, message: Message) -> None:
        role, pid = message.get("role"), message.get("pid")
        if message["type"] != "hello" or role not in ROLES or not isinstance(pid, int):
            raise WireError(f"the first line must be a hello with role {', '.join(ROLES)}, and a pid")
        peer.role, peer.pid = str(role), pid
        self._send(peer, {"type": "hello", "role": "front", "pid": os.getpid()})
        if role == "engine":
            log.info("engine %d is connected", pid)
            self._on_engine({"type": "connected", "pid": pid})

    def _drop(self, peer: Peer, err: Exception | None) -> None:
        if self._peers.pop(peer.socket.fileno(), None) is None:
            return
        if err is not None:
            log.warning("dropped %s: %s", peer, err)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(peer.socket)
        peer.socket.close()
        if peer.role == "engine":
            self._on_engine({"type": "disconnected", "pid": peer.pid})

    def _send_engines(self, message: Message) -> None:
        self._send_if(message, lambda peer: peer.role == "engine")

    def _send_if(self, message: Message, is_meant: Callable[[Peer], bool]) -> None:
        for peer in [peer for peer in self._peers.values() if is_meant(peer)]:
            self._send(peer, message)

    def _send(self, peer: Peer, message: Message) -> None:
        peer.unsent += encode(message)
        try:
            self._flush(peer)
        except OSError as err:
            self._drop(peer, err)

    def _flush(self, peer: Peer) -> None:
        with contextlib.suppress(BlockingIOError):
            del peer.unsent[: peer.socket.send(peer.unsent)]
        if len(peer.unsent) > MAX_UNSENT:
            raise OSError(errno.ENOBUFS, f"it does not read: {len(peer.unsent)} bytes wait for it")
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.unsent else 0)
        self._selector.modify(peer.socket, wanted)


def _listen(path: Path) -> socket.socket:
    """A listening socket that the owner and the group may use; takes the place of a dead one."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if _is_served(path):
            raise StorageError(f"{path}: another `edgegen run` serves it: stop that one first")
        path.unlink(missing_ok=True)
        old_mask = os.umask(0o777 & ~SOCKET_MODE)
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(old_mask)
        listener.listen(MAX_PEERS)
        listener.setblocking(False)
    except EdgegenError:
        listener.close()
        raise
    except OSError as err:
        listener.close()
        raise StorageError(f"{path}: the control socket cannot be made: {err.strerror or err}") from err
    return listener


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except TimeoutError:
            return True
        return True
