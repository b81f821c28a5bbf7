"""The other end of the front's Unix socket: for the engine, which works on without it, and for shells."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from ..errors import BadRequest, DiskFull, EdgegenError, StorageError
from .wire import LineBuffer, Message, WireError, encode

log = logging.getLogger(__name__)

SEND_TIMEOUT_S = 5
RETRY_S = (0.2, 5.0)  # first and longest pause between attempts to connect


class FrontError(EdgegenError, ConnectionError):
    """The front does not run, or does not answer."""

    code = "no_front"
    exit_code = 1


def _connect(path: Path, role: str, timeout_s: float | None) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        connection.connect(os.fspath(path))
        connection.sendall(encode({"type": "hello", "role": role, "pid": os.getpid()}))
    except BaseException:
        connection.close()
        raise
    return connection


class ShellLink:
    """Asks the running front; a context manager.

    Args:
        role: `shell`, or `display` for what shows pictures.
    Raises:
        FrontError: no front serves this socket.
    """

    def __init__(self, path: Path, timeout_s: float = 30.0, role: str = "shell"):
        self.path = path
        self._lines = LineBuffer()
        self._waiting: list[Message] = []
        try:
            self._socket = _connect(path, role, timeout_s)
            self._receive()  # its hello
        except OSError as err:
            raise self._error(err) from err

    def ask(self, type_: str, **fields: object) -> Message:
        """One question, one answer: `status`, `jobs`, `submit` (request=...), `cancel` (id=...).

        Raises:
            BadRequest, StorageError, FrontError: as the front says.
        """
        try:
            self._socket.sendall(encode({"type": type_, **fields}))
            answer = self._receive()
        except OSError as err:
            raise self._error(err) from err
        if answer["type"] == "error":
            raise _error_of(answer)
        return answer

    def watch(self, previews: bool = False) -> Iterator[Message]:
        """Every event from this call on, until the front ends (FrontError) or the caller closes.

        Args:
            previews: how the picture under way looks, too (`preview`), as often as the engine tells.
        """
        self.ask("watch", previews=previews)
        self._socket.settimeout(None)
        return self._events()

    def _events(self) -> Iterator[Message]:
        while True:
            try:
                yield self._receive()
            except OSError as err:
                raise self._error(err) from err

    def hang_up(self) -> None:
        """Ends a `watch` that another thread is in, as if the front had ended."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Safe to call twice."""
        self._socket.close()

    def __enter__(self) -> ShellLink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self) -> Message:
        while not self._waiting:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError("the front closed the connection")
            try:
                self._waiting += self._lines.feed(data)
            except WireError as err:
                raise ConnectionAbortedError(str(err)) from err
        return self._waiting.pop(0)

    def _error(self, err: OSError) -> FrontError:
        if isinstance(err, FileNotFoundError | ConnectionRefusedError):
            return FrontError(f"{self.path}: no front is running here: start it with `edgegen run`")
        return FrontError(f"{self.path}: the front does not answer: {err.strerror or err}")


def _error_of(answer: Message) -> EdgegenError:
    code, reason = str(answer.get("code")), str(answer.get("reason"))
    for known in (StorageError, DiskFull):
        if code == known.code:
            return known(reason)
    return BadRequest(reason, code)


class EngineLink:
    """Keeps the engine in touch with a front that may come and go.

    A thread waits for the front's words and connects again when it is lost. Sending never fails and
    never waits long: without a front, or with one that does not read, the message is lost, for the
    queue's file tells the same.

    Args:
        on_message: called on the link's thread with `wake`, `stop` and, after each connection, `hello`.
    """

    def __init__(self, path: Path, on_message: Callable[[Message], object]):
        self._path = path
        self._on_message = on_message
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)

    @property
    def is_connected(self) -> bool:
        return self._socket is not None

    def start(self) -> None:
        self._thread.start()

    def send(self, message: Message) -> bool:
        """False when there was nobody to send it to."""
        with self._lock:
            if self._socket is None:
                return False
            try:
                self._socket.sendall(encode(message))
            except OSError as err:
                log.warning("lost the front: %s", err)
                self._hang_up()
                return False
            return True

    def close(self) -> None:
        """Safe to call twice."""
        self._closed.set()
        with self._lock:
            self._hang_up()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _hang_up(self) -> None:
        """Wakes the thread that receives, which then forgets the socket."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        pause, longest = RETRY_S
        while not self._closed.is_set():
            try:
                connection = _connect(self._path, "engine", SEND_TIMEOUT_S)
            except OSError:
                self._closed.wait(pause)
                pause = min(longest, pause * 2)
                continue
            pause = RETRY_S[0]
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIMEOUT_S, 0))
            self._listen(connection)
            self._closed.wait(pause)

    def _listen(self, connection: socket.socket) -> None:
        lines = LineBuffer()
        with self._lock:
            self._socket = connection
        try:
            while not self._closed.is_set():
                data = connection.recv(65536)
                if not data:
                    break
                for message in lines.feed(data):
                    self._on_message(message)
        except (OSError, WireError) as err:
            log.warning("lost the front: %s", err)
        finally:
            with self._lock:
                self._socket = None
                connection.close()
