"""What a manifest is made of: hashed files, graphs, tokenizers, defaults, sizes, memory.

Whatever a manifest says is hostile until checked: a path must stay inside the folder by its spelling.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

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
    "heunpp2",
    "ipndm_v",
    "deis",
    "res_multistep",
    "res_multistep_ancestral",
    "gradient_estimation",
    "euler_cfg_pp",
    "euler_ancestral_cfg_pp",
    "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_2m_cfg_pp",
    "res_multistep_cfg_pp",
    "res_multistep_ancestral_cfg_pp",
    "gradient_estimation_cfg_pp",
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


DenoiserPart = Literal["down", "mid", "up"]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class FileEntry(Part):
    """One file's identity: SHA-256 in lower-case hex, and its size."""

    sha256: Sha256
    bytes: ByteCount


class GraphEntry(Part):
    """One ONNX graph: `file` is the .onnx, `files` is it and its external data."""

    file: RelativePath
    precision: Precision
    files: dict[RelativePath, FileEntry] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _file_is_listed(self) -> GraphEntry:
        if self.file not in self.files:
            raise ValueError(f"files does not list {self.file}")
        return self


class TokenizerEntry(Part):
    """A Hugging Face `tokenizer.json` of CLIP type."""

    file: RelativePath
    sha256: Sha256
    bytes: ByteCount
    max_length: int = Field(77, ge=3, le=1024)


class SecondTokenizer(Part):
    """How a second text encoder's tokens differ from the first's: the same file, padded with another token.

    Stable Diffusion XL pads the prompt of its first encoder with the end token, of its second with `!` (0).
    """

    pad_token_id: int = Field(ge=0, le=1 << 24)


class Defaults(Part):
    """What a job gets that asks for nothing else."""

    sampler: Sampler
    steps: int = Field(ge=1, le=1000)
    guidance: float = Field(ge=1, le=100)
    width: Pixels
    height: Pixels


class Sizes(Part):
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


class RamGrowth(Part):
    """MB that a process needs more for each million pixels more, by memory mode."""

    full: Growth
    mapped: Growth
    low: Growth
    tiled: Growth | None = None


class RamNeeds(Part):
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


class LatentRgb(Part):
    """How much of red, green and blue each channel of the denoiser's latents is, for previews: latents @
    factors + bias is a picture, -1 black to 1 white."""

    factors: list[Rgb] = Field(min_length=1, max_length=512)
    bias: Rgb


class IpLayer(Part):
    """A cross attention of the denoiser that may also look at a picture.

    `channels` of its keys; `place` is its block of transformers, counted as they run; `part` of the denoiser;
    `level`: how often the latents are halved there, by which `ip_mask_LEVEL` says where a picture counts, and
    several adapters may speak; None: the graph is older and knows neither.
    """

    channels: int = Field(ge=1, le=1 << 16)
    place: int = Field(ge=0, le=1023)
    part: DenoiserPart
    level: int | None = Field(None, ge=0, le=15)
