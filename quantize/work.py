"""The work folder of a build: finished steps stay in it, so that a build that was cut off goes on.

`PACK.work/` lies beside the pack to be. A step is finished when its note is there: the files it made were
on the disk before. Notes carry a key that hashes the source, all options the step and those before it
depend on, and the versions of what computes: a step is taken over only where all of them are the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edgegen.errors import StorageError

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".msgpack", ".h5")  # never read, so they do not count


class Work:
    """Steps of one build, in the order they are asked for.

    Attributes:
        folder: the work folder, which exists.
        told: called with a step's name and whether it was taken over, when it begins.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.told: Callable[[str, bool], None] | None = None
        self._key = ""
        self._ahead: set[str] = set()

    @property
    def has_finished_steps(self) -> bool:
        return any((self.folder / "steps").glob("*.json"))

    def clear_ahead(self, name: str, outputs: Sequence[Path]) -> bool:
        """Make place for a step that is begun before its turn; False where it may have been finished.

        The `make` that `step` is later given for it waits for what was begun.
        """
        if self._note(name).exists():
            return False
        self._clear(self._note(name), outputs)
        self._ahead.add(name)
        return True

    def step(self, name: str, inputs: Any, outputs: Sequence[Path], make: Callable[[], Any]) -> Any:
        """What `make` returned, now or in an earlier run of the same build.

        Args:
            name: of the step; unique in the build.
            inputs: all it depends on beside the steps before it; made of JSON's types. Or what returns that:
                asked before the step only where it may have been finished, else after it.
            outputs: files and folders in the work folder that it makes.
            make: makes them; returns what JSON can hold.
        """
        note, before = self._note(name), self._key
        found = None
        if note.exists():
            self._key = _key_after(before, name, inputs)
            found = self._finished(note, outputs)
        if self.told:
            self.told(name, found is not None)
        if found is not None:
            return found["result"]
        if name not in self._ahead:
            self._clear(note, outputs)
        result = make()
        self._key = _key_after(before, name, inputs)
        for path in outputs:
            sync(path)
        write_whole(note, json.dumps({"key": self._key, "result": result}))
        return result

    def _note(self, name: str) -> Path:
        return self.folder / "steps" / f"{name.replace(' ', '-')}.json"

    def _finished(self, note: Path, outputs: Sequence[Path]) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(note.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        same = found.get("key") == self._key and all(path.exists() for path in outputs)
        return found if same else None

    def _clear(self, note: Path, outputs: Sequence[Path]) -> None:
        note.unlink(missing_ok=True)
        for path in outputs:
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def work_folder(out: Path, force: bool = False, fresh: bool = False) -> Iterator[Work]:
    """`<out>.work`, whose `pack/` becomes `out` when the block ends well; then the rest goes.

    A block that fails leaves it for the next try, unless no step was finished.

    Args:
        force: replace what is at `out`.
        fresh: throw away what an earlier build left.
    Raises:
        StorageError: `out` exists, or cannot be written; another build is at it.
    """
    if out.exists() and not force:
        raise StorageError(f"{out} exists; give another -o, or --force to replace it")
    if not out.absolute().parent.is_dir():
        raise StorageError(f"{out.absolute().parent} is no folder; make it first")
    folder = out.absolute().with_name(f"{out.absolute().name}.work")
    with _locked(folder, out):
        if fresh:
            _empty(folder)
        work = Work(folder)
        try:
            (folder / "pack").mkdir(exist_ok=True)
            yield work
            _publish(folder, out)
        finally:
            if not work.has_finished_steps:
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, out: Path) -> Iterator[None]:
    try:
        folder.mkdir(exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError:
        raise StorageError(f"{out} is being built by another process; wait for it") from None
    except (FileNotFoundError, PermissionError, NotADirectoryError) as err:
        if folder.exists() and err.filename != str(folder):
            raise
        raise StorageError(f"cannot write beside {out}: {err.strerror}") from err


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()


def _publish(folder: Path, out: Path) -> None:
    sync(folder / "pack")
    if out.exists():
        out.rename(folder / "replaced")
    (folder / "pack").rename(out)
    sync_folder(out.absolute().parent)
    shutil.rmtree(folder, ignore_errors=True)


def source_digest(source: Path) -> str:
    """SHA-256 over names and contents of a checkpoint: a file, or all files of a folder but pickles."""
    total = hashlib.sha256()
    for path in _files(source) if source.is_dir() else [source]:
        if path.is_file() and path.suffix not in PICKLES and not path.name.startswith("."):
            total.update(f"{path.relative_to(source)}\n{_file_digest(path)}\n".encode())
    return total.hexdigest()


def _files(folder: Path) -> list[Path]:
    """All files, also behind links to folders, which `rglob` passes by."""
    walk = os.walk(folder, followlinks=True)
    return sorted(Path(parent) / name for parent, _, names in walk for name in names)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _key_after(before: str, name: str, inputs: Any) -> str:
    """The key of a step from that of the step before it."""
    return _hash([before, name, inputs() if callable(inputs) else inputs])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_whole(path: Path, text: str) -> None:
    """A file that is there whole or not at all, whatever is cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, "utf-8")
    sync(part)
    part.replace(path)
    sync_folder(path.parent)


def sync(path: Path) -> None:
    """A file, or all of a folder, onto the disk."""
    for file in [*path.rglob("*"), path] if path.is_dir() else [path]:
        if file.is_dir():
            sync_folder(file)
        elif file.exists():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


def sync_folder(path: Path) -> None:
    """A folder's names onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
