"""What a pack says about itself: from flags, else `pack_defaults.json` in the source, else the checkpoint."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from edgegen.pack import Defaults, PackName, Sizes

from .source import Source, SourceError

FILE_NAME = "pack_defaults.json"
MAX_BYTES = 1 << 20
EMBEDDED_GUIDANCE = 8.0  # Luo et al. 2023, arXiv:2310.04378


class PartialDefaults(BaseModel):
    """`defaults` of the file; what is missing comes from the checkpoint."""

    model_config = ConfigDict(extra="forbid")
    sampler: str | None = None
    steps: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None


class PackDefaults(BaseModel):
    """The file beside the checkpoint's folders; every key is optional."""

    model_config = ConfigDict(extra="forbid")
    name: PackName | None = None
    title: str | None = Field(None, min_length=1, max_length=200)
    family: str | None = Field(None, pattern=r"^[a-z][a-z0-9_-]{0,31}$")
    defaults: PartialDefaults = PartialDefaults()
    sizes: Sizes | None = None
    licence: str | None = Field(None, min_length=1, max_length=200)
    provenance: dict[str, JsonValue] = Field(default_factory=dict)


def read_defaults(folder: Path) -> PackDefaults:
    """`pack_defaults.json` of a source folder, `NAME.pack_defaults.json` beside a file `NAME.safetensors`.

    All empty when there is none.

    Raises:
        SourceError: naming every wrong key.
    """
    path = folder.with_suffix(f".{FILE_NAME}") if folder.is_file() else folder / FILE_NAME
    if not path.exists():
        return PackDefaults.model_validate({})
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES} bytes")
        return PackDefaults.model_validate(json.loads(path.read_text("utf-8")))
    except ValidationError as err:
        rows = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in err.errors(include_url=False)]
        raise SourceError(f"{path}: {'; '.join(rows)}") from None
    except (OSError, ValueError) as err:
        raise SourceError(f"{path} cannot be read: {err}") from err


def pack_name(source: Source, given: PackDefaults) -> str:
    """The defaults' name, or the source's with what names may not hold replaced by `-`."""
    return given.name or name_of(source.folder)


def name_of(path: Path) -> str:
    """A pack's name after its checkpoint's."""
    path = path.resolve()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem if path.is_file() else path.name).strip("-._")[:64]
    return name or "pack"


def default_settings(source: Source, given: PackDefaults) -> Defaults:
    """Sampler, steps, guidance and size of a job that asks for nothing else."""
    d, side = given.defaults, source.native_size
    sampler = d.sampler or source.sampler
    few = sampler == "lcm" or source.is_turbo
    values = {
        "sampler": sampler,
        "steps": d.steps or (4 if few else 20),
        "guidance": float(d.guidance or _guidance(source, few)),
        "width": d.width or side,
        "height": d.height or side,
    }
    try:
        return Defaults.model_validate(values)
    except ValidationError as err:
        rows = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in err.errors(include_url=False)]
        raise SourceError(f"defaults: {'; '.join(rows)}") from None


def _guidance(source: Source, few_steps: bool) -> float:
    """What a checkpoint is usually guided by; a model distilled to few steps either embeds it or has none."""
    if source.guidance_embedding_dim:
        return EMBEDDED_GUIDANCE
    return 1.0 if few_steps else 7.5


def default_sizes(source: Source, given: PackDefaults) -> Sizes:
    """From half to twice the side the checkpoint was trained at, in steps its denoiser can halve."""
    if given.sizes:
        return given.sizes
    halvings = len(source.configs["unet"].get("block_out_channels", (1,))) - 1
    multiple = source.latent_downscale * 2**halvings
    side = source.native_size
    smallest = max(multiple, side // 2 // multiple * multiple)
    return Sizes(min=smallest, max=max(smallest, 2 * side), multiple=multiple)
