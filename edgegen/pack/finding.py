"""Which packs are installed, and the one that somebody means."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import PackError, UnknownPack
from .folder import Pack, check_sizes
from .manifest import MANIFEST_NAME
from .reading import ComponentPack, read_manifest, read_pack_json


def builtin_packs_dir() -> Path:
    """The folder of the packs that ship inside edgegen."""
    return Path(__file__).parent.parent / "packs"


def scan_packs(folders: Iterable[Path]) -> tuple[list[Pack], dict[Path, PackError]]:
    """All packs in the folders (of two with one name the first counts), and the broken ones."""
    packs: dict[str, Pack] = {}
    broken: dict[Path, PackError] = {}
    for folder in candidates(folders):
        try:
            pack = Pack.open(folder)
            packs.setdefault(pack.name, pack)
        except ComponentPack:
            pass  # `component.scan_components` finds those
        except PackError as err:
            broken[folder] = err
    return list(packs.values()), broken


def candidates(folders: Iterable[Path]) -> Iterator[Path]:
    """Whatever in the folders may be a pack."""
    for parent in folders:
        with contextlib.suppress(OSError):  # a folder that is not there holds no packs
            yield from sorted(p.parent for p in parent.glob(f"*/{MANIFEST_NAME}"))


def list_packs(folders: Iterable[Path]) -> list[Pack]:
    """All packs in the folders that open; of two with one name the first counts."""
    return scan_packs(folders)[0]


def find_pack(name: str, folders: Iterable[Path], allow_path: bool = True) -> Pack:
    """The installed pack of that name, or the pack in that folder.

    Args:
        name: a pack's name, or a path: anything with a `/`.
        folders: where packs are installed, searched in order.
        allow_path: pass False for names from outside: they must not name folders of this machine.
    Raises:
        UnknownPack: nothing of that name; lists what is installed.
        PackError: it is there, but broken.
    """
    if allow_path and ("/" in name or name in (".", "..")):
        return Pack.open(Path(name).expanduser())
    packs, broken = scan_packs(folders)
    for pack in packs:
        if pack.name == name:
            return pack
    for folder, err in broken.items():
        if folder.name == name:
            raise err
    for folder in (f for f in candidates(folders) if f not in broken):
        if read_pack_json(folder).get("name") == name:
            read_manifest(folder)  # tells what it is instead
    raise UnknownPack(_unknown(name, [pack.name for pack in packs]))


class PackFinder:
    """`find_pack` for one who asks for every job: manifests are read again only after one has changed.

    Args:
        folders: where packs are installed, searched in order.
    """

    def __init__(self, folders: Iterable[Path]):
        self._folders = tuple(folders)
        self._known: tuple[object, Pack] | None = None

    def find(self, name: str, allow_path: bool = True) -> Pack:
        """As `find_pack`, and raises as it does."""
        folders = [*candidates(self._folders), *([Path(name).expanduser()] if allow_path else [])]
        key = name, allow_path, [_stamp(folder / MANIFEST_NAME) for folder in folders]
        if self._known is None or self._known[0] != key:
            self._known = None
            self._known = key, find_pack(name, self._folders, allow_path)
        pack = self._known[1]
        check_sizes(pack.folder, pack.manifest)
        return pack


def _stamp(path: Path) -> tuple[object, ...]:
    """Changes whenever the file does."""
    try:
        found = path.stat()
    except OSError:
        return (path,)
    return path, found.st_mtime_ns, found.st_size, found.st_ino


def _unknown(name: str, installed: list[str]) -> str:
    close = difflib.get_close_matches(name, installed, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"no pack is called {name[:64]!r}.{hint} Installed: {', '.join(installed) or 'none'}."
