"""The pack format: a folder with all a device needs to make pictures, and its `pack.json`.

Readable without onnx, torch or ONNX Runtime. Whatever a manifest says is hostile until checked:
paths must stay inside the folder, sizes must match on opening, hashes on `Pack.verify`.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from .errors import PackError, StorageError, UnknownPack

FORMAT_VERSION = 1
LAYER_TABLE = "layers.json"  # beside a graph: where its layers' weights lie, for LoRA
MANIFEST_NAME = "pack.json"
MANIFEST_MAX_BYTES = 1 << 20
REQUIRED_ROLES = ("text_encoder", "unet", "vae_decoder")
# later than the format's first version
OPTIONAL_FIELDS = ("ram_mb", "latent_rgb", "tokenizer_2", "guidance_embedding_dim", "extras", "words_width")

Precision = Literal["fp32", "fp16", "int8", "w8", "w4"]
Sampler = Literal[
    "euler",
    "euler_ancestral",
    "heun",
    "dpm_2",
    "dpm_2_ancestral",
    "lms",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "ddim",
    "uni_pc",
    "lcm",
    "ipndm",
    "uni_pc_bh2",
    "dpmpp_3m_sde",
    "ddpm",
    "pndm",
    "dpmpp_sde_gpu",
    "dpmpp_2m_sde_gpu",
    "dpmpp_3m_sde_gpu",
]
PackName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Role = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
ByteCount = Annotated[int, Field(ge=0, le=1 << 44)]
Pixels = Annotated[int, Field(ge=8, le=8192)]
Growth = Annotated[float, Field(ge=0, le=1e6)]


def _inside(path: str) -> str:
    """A relative POSIX path that cannot leave its folder by its spelling."""
    parts = PurePosixPath(path).parts
    climbs = not parts or path.startswith("/") or ".." in parts
    if climbs or len(path) > 240 or any(c in path for c in "\\:") or not path.isprintable():
        raise ValueError("must be a plain relative path inside the pack")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class FileEntry(_Part):
    """One file's identity: SHA-256 in lower-case hex, and its size."""

    sha256: Sha256
    bytes: ByteCount


class GraphEntry(_Part):
    """One ONNX graph: `file` is the .onnx, `files` is it and its external data."""

    file: RelativePath
    precision: Precision
    files: dict[RelativePath, FileEntry] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _file_is_listed(self) -> GraphEntry:
        if self.file not in self.files:
            raise ValueError(f"files does not list {self.file}")
        return self


class TokenizerEntry(_Part):
    """A Hugging Face `tokenizer.json` of CLIP type."""

    file: RelativePath
    sha256: Sha256
    bytes: ByteCount
    max_length: int = Field(77, ge=3, le=1024)


class SecondTokenizer(_Part):
    """How a second text encoder's tokens differ from the first's: the same file, padded with another token.

    Stable Diffusion XL pads the prompt of its first encoder with the end token, of its second with `!` (0).
    """

    pad_token_id: int = Field(ge=0, le=1 << 24)


class Defaults(_Part):
    """What a job gets that asks for nothing else."""

    sampler: Sampler
    steps: int = Field(ge=1, le=1000)
    guidance: float = Field(ge=1, le=100)
    width: Pixels
    height: Pixels


class Sizes(_Part):
    """Sides of a picture in pixels: `min` to `max`, multiples of `multiple`."""

    min: Pixels
    max: Pixels
    multiple: int = Field(ge=1, le=1024)

    def problem_with(self, side: int) -> str | None:
        """Why a side is not allowed, or None."""
        if self.min <= side <= self.max and side % self.multiple == 0:
            return None
        return f"{side} is not allowed: {self}"

    def __str__(self) -> str:
        if self.min == self.max:
            return f"only {self.min}"
        return f"{self.min} to {self.max} in steps of {self.multiple}"


class RamGrowth(_Part):
    """MB that a process needs more for each million pixels more, by memory mode."""

    full: Growth
    mapped: Growth
    low: Growth
    tiled: Growth | None = None


class RamNeeds(_Part):
    """Memory of a whole process that makes one picture of the default size, by memory mode.

    In MB (10^6 bytes), measured: all of it in `full`; in the others, where weights stay in their files, what
    the kernel cannot drop, and some room for the pages in use. `tiled` is missing where the decoder is cut:
    there `low` needs no more. `growth` is missing where it was measured at one size only.
    """

    full: int = Field(ge=1, le=1 << 24)
    mapped: int = Field(ge=1, le=1 << 24)
    low: int = Field(ge=1, le=1 << 24)
    tiled: int | None = Field(None, ge=1, le=1 << 24)
    growth: RamGrowth | None = None


Rgb = Annotated[list[Annotated[float, Field(ge=-100, le=100)]], Field(min_length=3, max_length=3)]


class LatentRgb(_Part):
    """How much of red, green and blue each channel of the denoiser's latents is, for previews: latents @
    factors + bias is a picture, -1 black to 1 white."""

    factors: list[Rgb] = Field(min_length=1, max_length=512)
    bias: Rgb


class ComponentPack(PackError):
    """The pack in `folder` is asked for pictures, but only helps others to make them."""

    def __init__(self, folder: Path, kind: str):
        super().__init__(f"pack in {folder} makes no pictures from words: it is {kind}, for workflows")
        self.folder = folder


class PackHead(_Part):
    """What every `pack.json` says, of whatever kind the pack is.

    `target` names the machine whose kernels the graphs favour; `min_ram_mb` was measured; 0: it was not.
    `extras` are files for people, such as the report: a device does without them, so they may be missing.
    """

    format_version: Literal[1] = 1
    name: PackName
    title: str = Field(min_length=1, max_length=200)
    graphs: dict[Role, GraphEntry] = Field(max_length=16)
    target: Literal["any", "x86-64", "arm64"] = "any"
    min_ram_mb: int = Field(0, ge=0, le=1 << 24)
    licence: str = Field(min_length=1, max_length=200)
    provenance: dict[str, JsonValue] = Field(default_factory=dict)
    evaluation: dict[str, JsonValue] = Field(default_factory=dict)
    extras: dict[RelativePath, FileEntry] | None = Field(None, max_length=100)

    def files(self) -> dict[str, FileEntry]:
        """Every file of the pack but `pack.json` and extras, by its path relative to the folder."""
        return {path: e for graph in self.graphs.values() for path, e in graph.files.items()}


HeadT = TypeVar("HeadT", bound=PackHead)


class Manifest(PackHead):
    """`pack.json` of a pack that makes pictures from words.

    Latents handed to the decoder are divided by `latent_scale`. `min_ram_mb` was measured in the memory mode
    `full`; `ram_mb` says it for every mode, and is missing in older packs. A graph `text_encoder_2` reads the
    first's tokens unless `tokenizer_2` says how they differ. `guidance_embedding_dim` is the width of the
    denoiser's input `timestep_cond`, the embedded guidance of a distilled model; None: it has no such input.
    """

    family: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")
    tokenizer: TokenizerEntry
    tokenizer_2: SecondTokenizer | None = None
    prediction_type: Literal["epsilon", "v_prediction", "sample"]
    beta_schedule: Literal["scaled_linear", "linear", "squaredcos_cap_v2"]
    beta_start: float = Field(0.00085, gt=0, lt=1)
    beta_end: float = Field(0.012, gt=0, lt=1)
    num_train_timesteps: int = Field(1000, ge=2, le=100_000)
    rescale_zero_terminal_snr: bool = False
    timestep_spacing: Literal["leading", "trailing", "linspace"]
    steps_offset: int = Field(0, ge=0, le=1)
    latent_channels: int = Field(ge=1, le=512)
    latent_downscale: int = Field(8, ge=1, le=128)
    latent_scale: float = Field(gt=0, le=1000)
    guidance_embedding_dim: int | None = Field(None, ge=4, le=8192)
    defaults: Defaults
    sizes: Sizes
    ram_mb: RamNeeds | None = None
    latent_rgb: LatentRgb | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Manifest:
        if wrong := list(self._contradictions()):
            raise ValueError("; ".join(wrong))
        return self

    @field_validator("latent_rgb")
    @classmethod
    def _one_factor_a_channel(cls, value: LatentRgb | None, info: ValidationInfo) -> LatentRgb | None:
        channels = info.data.get("latent_channels")
        if value and channels and len(value.factors) != channels:
            raise ValueError(f"has {len(value.factors)} factors, not one for each of {channels} channels")
        return value

    def _contradictions(self) -> Iterator[str]:
        if missing := [role for role in REQUIRED_ROLES if role not in self.graphs]:
            yield f"graphs: missing {', '.join(missing)}"
        if self.tokenizer_2 and "text_encoder_2" not in self.graphs:
            yield "tokenizer_2: there is no graph text_encoder_2 to tokenize for"
        if self.beta_start > self.beta_end:
            yield f"beta_start {self.beta_start} is above beta_end {self.beta_end}"
        if twice := (self.extras or {}).keys() & {MANIFEST_NAME, *self.files()}:
            yield f"extras: {', '.join(sorted(twice))} is no extra"
        if self.sizes.min > self.sizes.max:
            yield f"sizes: min {self.sizes.min} is above max {self.sizes.max}"
        if self.sizes.multiple % self.latent_downscale:
            yield f"sizes.multiple {self.sizes.multiple} is no multiple of latent_downscale"
        for side in ("width", "height"):
            if problem := self.sizes.problem_with(getattr(self.defaults, side)):
                yield f"defaults.{side}: {problem}"
        if self.defaults.steps > self.num_train_timesteps:
            yield f"defaults.steps {self.defaults.steps} is above num_train_timesteps"

    def files(self) -> dict[str, FileEntry]:
        """Every file of the pack but `pack.json` and extras, by its path relative to the folder."""
        tokenizer = FileEntry(sha256=self.tokenizer.sha256, bytes=self.tokenizer.bytes)
        return {**super().files(), self.tokenizer.file: tokenizer}


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
        found = (_file_problem(self.folder, p, e) or _new_hash_problem(self.folder, p, e) for p, e in files)
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
            yield path, _file_problem(self.folder, path, entry) or _hash_problem(self.folder, path, entry)

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
        problem = _file_problem(self.folder, path, entry) or _hash_problem(self.folder, path, entry)
        _raise_if(self.folder, [problem] if problem else [])
        return self.tokenizer_path


def check_sizes(folder: Path, manifest: PackHead) -> None:
    """Raise PackError for every file that is not there, not inside, or of another size."""
    _raise_if(folder, [p for path, e in manifest.files().items() if (p := _file_problem(folder, path, e))])


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


def _file_problem(folder: Path, path: str, entry: FileEntry) -> str | None:
    try:
        real = (folder / path).resolve(strict=True)
        if not real.is_relative_to(folder.resolve()):
            return f"{path}: a link that leads out of the pack"
        if not real.is_file():
            return f"{path}: not a regular file"
        size = real.stat().st_size
    except (OSError, RuntimeError) as err:  # RuntimeError: a loop of links
        return f"{path}: cannot be read ({getattr(err, 'strerror', None) or err})"
    return None if size == entry.bytes else f"{path}: {size} bytes, expected {entry.bytes}"


def _hash_problem(folder: Path, path: str, entry: FileEntry) -> str | None:
    try:
        found = file_entry(folder / path).sha256
    except OSError as err:
        return f"{path}: cannot be read ({err.strerror})"
    return None if found == entry.sha256 else f"{path}: SHA-256 is {found}, expected {entry.sha256}"


_whole: set[tuple[str, int, int, int, int, int]] = set()
"""Files of this process found whole: hash, and whatever of a file's state changes with its content."""


def _new_hash_problem(folder: Path, path: str, entry: FileEntry) -> str | None:
    """As `_hash_problem`, remembering what is whole: reading a gigabyte for each picture takes as long as a
    step, and drives the weights themselves out of a small memory."""
    before = _state(folder / path, entry)
    if before in _whole:
        return None
    problem = _hash_problem(folder, path, entry)
    if problem is None and before is not None and before == _state(folder / path, entry):
        _whole.add(before)
    return problem


def _state(path: Path, entry: FileEntry) -> tuple[str, int, int, int, int, int] | None:
    """ctime is in it: whoever writes to a file may set its mtime back, but not that."""
    try:
        s = path.stat()
    except OSError:
        return None
    return entry.sha256, s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


def file_entry(path: Path) -> FileEntry:
    """Hash and measure a file. Raises OSError."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileEntry(sha256=digest, bytes=file.tell())


def read_manifest(folder: Path) -> Manifest:
    """Parse and check `folder/pack.json`. Raises PackError with every problem at once; ComponentPack for a
    pack that only helps others."""
    data = read_pack_json(folder)
    if kind := component_kind(data):
        raise ComponentPack(folder, kind)
    return parse_head(Manifest, folder, data)


def read_pack_json(folder: Path) -> dict[str, JsonValue]:
    """`folder/pack.json` of a format version that is known, else unchecked. Raises PackError."""
    data = _load_json(folder)
    if not isinstance(data, dict):
        raise PackError(f"{folder / MANIFEST_NAME} must hold one JSON object, not {type(data).__name__}")
    version = data.get("format_version")
    if type(version) is int and version != FORMAT_VERSION:
        raise PackError(
            f"pack in {folder} has format version {version}; this edgegen reads {FORMAT_VERSION}. "
            "Install a newer edgegen, or build the pack again."
        )
    return data


def component_kind(data: dict[str, JsonValue]) -> str | None:
    """What a pack that only helps others calls itself, with its article; None of one that makes pictures."""
    kind = data.get("kind")
    if not isinstance(kind, str):
        return None
    return f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind[:32]!r}"


def parse_head(model: type[HeadT], folder: Path, data: dict[str, JsonValue]) -> HeadT:
    """A checked manifest. Raises PackError with every problem at once."""
    try:
        return model.model_validate(data)
    except ValidationError as err:
        raise PackError(f"pack in {folder}: " + "; ".join(_readable(err))) from None


def _load_json(folder: Path) -> Any:
    path = folder / MANIFEST_NAME
    try:
        if not path.is_file():
            raise PackError(f"{folder} is no pack: it has no file {MANIFEST_NAME}")
        with path.open("rb") as file:
            raw = file.read(MANIFEST_MAX_BYTES + 1)
        if len(raw) > MANIFEST_MAX_BYTES:
            raise PackError(f"{path} is larger than {MANIFEST_MAX_BYTES} bytes")
        return json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except OSError as err:
        raise PackError(f"{path} cannot be read: {err.strerror}") from err
    except RecursionError:
        raise PackError(f"{path} is nested too deeply") from None
    except PackError:
        raise
    except ValueError as err:  # bad JSON, bad UTF-8, NaN, a number of thousands of digits
        raise PackError(f"{path} is not valid JSON: {err}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _readable(err: ValidationError) -> list[str]:
    lines = []
    for item in err.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        shown = repr(item["input"])[:60] if item["type"] not in ("missing", "value_error") else ""
        lines.append((f"{where}: " if where else "") + message + (f" (got {shown})" if shown else ""))
    return lines


def write_manifest(folder: Path, manifest: PackHead) -> Path:
    """Write `pack.json` in one piece. Raises StorageError when the folder cannot be written."""
    data = manifest.model_dump(mode="json")
    for name in OPTIONAL_FIELDS:
        _drop_unset(data, name)
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    path = folder / MANIFEST_NAME
    try:
        replace_file(path, text.encode("utf-8"))
    except OSError as err:
        raise StorageError(f"cannot write {path}: {err.strerror}") from err
    return path


def _drop_unset(data: dict[str, Any], name: str) -> None:
    """Leave out what is unset in it, or itself: an edgegen that does not know it yet reads the pack too."""
    value = data.get(name, ...)
    if value is ...:
        return
    if value is None or value == {}:
        del data[name]
    elif isinstance(value, dict):
        for key in list(value):
            _drop_unset(value, key)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that a power cut leaves the old one or the new one, whole. Raises OSError."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def builtin_packs_dir() -> Path:
    """The folder of the packs that ship inside edgegen."""
    return Path(__file__).parent / "packs"


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


def _unknown(name: str, installed: list[str]) -> str:
    close = difflib.get_close_matches(name, installed, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"no pack is called {name[:64]!r}.{hint} Installed: {', '.join(installed) or 'none'}."
