"""`pack.json`: what every pack says, and what one that makes pictures from words says beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, JsonValue, ValidationInfo, field_validator, model_validator

from .parts import (
    Defaults,
    FileEntry,
    GraphEntry,
    IpLayer,
    LatentRgb,
    PackName,
    Part,
    RamNeeds,
    RelativePath,
    Role,
    SecondTokenizer,
    Sizes,
    TokenizerEntry,
)

FORMAT_VERSION = 1
LAYER_TABLE = "layers.json"  # beside a graph: where its layers' weights lie, for LoRA
MANIFEST_NAME = "pack.json"
REQUIRED_ROLES = ("text_encoder", "unet", "vae_decoder")
# later than the format's first version
OPTIONAL_FIELDS = (
    *("ram_mb", "latent_rgb", "tokenizer_2", "guidance_embedding_dim", "extras", "words_width", "ip_layers"),
    *("image_size", "embeds_width", "states_width", "reads", "reads_width", "tokens", "ip_channels"),
)


class PackHead(Part):
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


class Manifest(PackHead):
    """`pack.json` of a pack that makes pictures from words.

    Latents handed to the decoder are divided by `latent_scale`. `min_ram_mb` was measured in the memory mode
    `full`; `ram_mb` says it for every mode, and is missing in older packs. A graph `text_encoder_2` reads the
    first's tokens unless `tokenizer_2` says how they differ. `guidance_embedding_dim` is the width of the
    denoiser's input `timestep_cond`, the embedded guidance of a distilled model; None: it has no such input.
    `ip_layers` are those of a graph `unet_ip`, in the order in which `ip_keys` and `ip_values` hold them.
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
    ip_layers: list[IpLayer] | None = Field(None, min_length=1, max_length=1024)

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
        if "unet_ip" in self.graphs and not self.ip_layers:
            yield "ip_layers: missing, for there is a graph unet_ip"
        if self.tokenizer_2 and "text_encoder_2" not in self.graphs:
            yield "tokenizer_2: there is no graph text_encoder_2 to tokenize for"
        if self.beta_start > self.beta_end:
            yield f"beta_start {self.beta_start} is above beta_end {self.beta_end}"
        if twice := (self.extras or {}).keys() & {MANIFEST_NAME, *self.files()}:
            yield f"extras: {', '.join(sorted(twice))} is no extra"
        yield from self._wrong_sizes()
        if self.defaults.steps > self.num_train_timesteps:
            yield f"defaults.steps {self.defaults.steps} is above num_train_timesteps"

    def _wrong_sizes(self) -> Iterator[str]:
        if self.sizes.min > self.sizes.max:
            yield f"sizes: min {self.sizes.min} is above max {self.sizes.max}"
        if self.sizes.multiple % self.latent_downscale:
            yield f"sizes.multiple {self.sizes.multiple} is no multiple of latent_downscale"
        for side in ("width", "height"):
            if problem := self.sizes.problem_with(getattr(self.defaults, side)):
                yield f"defaults.{side}: {problem}"

    def files(self) -> dict[str, FileEntry]:
        """Every file of the pack but `pack.json` and extras, by its path relative to the folder."""
        tokenizer = FileEntry(sha256=self.tokenizer.sha256, bytes=self.tokenizer.bytes)
        return {**super().files(), self.tokenizer.file: tokenizer}
