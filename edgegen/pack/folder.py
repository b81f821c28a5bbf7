"""An opened pack: its folder, its checked manifest, and its files, to be checked as well."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import PackError
from .hashing import file_problem, hash_problem, new_hash_problem
from .manifest import Manifest, PackHead
from .parts import FileEntry
from .reading import read_manifest


@dataclass(frozen=True)
class PackFolder:
    """An opened pack of whatever kind: its folder and its checked manifest."""

    folder: Path
    manifest: PackHead

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def size_bytes(self) -> int:
        """All files together, without `pack.json` and extras."""
        return sum(entry.bytes for entry in self.manifest.files().values())

    def verify_graph(self, role: str) -> Path:
        """Like `graph`, after hashing the files of that graph: parse nothing else.

        A file found whole is hashed again only when it changed. Raises PackError.
        """
        path = self.graph(role)
        files = self.manifest.graphs[role].files.items()
        found = (file_problem(self.folder, p, e) or new_hash_problem(self.folder, p, e) for p, e in files)
        _raise_if(self.folder, [problem for problem in found if problem])
        return path

    def graph(self, role: str) -> Path:
        """The .onnx file of a role. Raises PackError when the pack has no such graph."""
        if role not in self.manifest.graphs:
            has = ", ".join(sorted(self.manifest.graphs))
            raise PackError(f"pack {self.name} has no graph {role!r}; it has {has}")
        return self.folder / self.manifest.graphs[role].file

    def check_files(self) -> Iterator[tuple[str, str | None]]:
        """Hash file by file: (path, what is wrong with it or None); extras may be missing."""
        there = {path: e for path, e in (self.manifest.extras or {}).items() if _is_there(self.folder / path)}
        for path, entry in {**there, **self.manifest.files()}.items():
            yield path, file_problem(self.folder, path, entry) or hash_problem(self.folder, path, entry)

    def verify(self) -> None:
        """Hash every file. Raises PackError naming each bad file, the expected and the found SHA-256."""
        _raise_if(self.folder, [problem for _, problem in self.check_files() if problem])


@dataclass(frozen=True)
class Pack(PackFolder):
    """A pack that makes pictures from words."""

    manifest: Manifest

    @property
    def tokenizer_path(self) -> Path:
        return self.folder / self.manifest.tokenizer.file

    @classmethod
    def open(cls, folder: Path | str) -> Pack:
        """Read and check the manifest, and that each file is there, inside, with its size.

        Cheap: reads no weights. Raises PackError naming everything that is wrong.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        check_sizes(folder, manifest)
        return cls(folder, manifest)

    def verify_tokenizer(self) -> Path:
        """Like `tokenizer_path`, after hashing it. Raises PackError."""
        entry = FileEntry(sha256=self.manifest.tokenizer.sha256, bytes=self.manifest.tokenizer.bytes)
        path = self.manifest.tokenizer.file
        problem = file_problem(self.folder, path, entry) or hash_problem(self.folder, path, entry)
        _raise_if(self.folder, [problem] if problem else [])
        return self.tokenizer_path


def check_sizes(folder: Path, manifest: PackHead) -> None:
    """Raise PackError for every file that is not there, not inside, or of another size."""
    _raise_if(folder, [p for path, e in manifest.files().items() if (p := file_problem(folder, path, e))])


def _is_there(path: Path) -> bool:
    """Also of a link that leads nowhere, and of what may not be looked at."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _raise_if(folder: Path, problems: list[str]) -> None:
    if problems:
        raise PackError(f"pack in {folder}: " + "; ".join(problems))
