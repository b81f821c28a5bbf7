"""What a build says of its pack, in its manifest; what only an evaluation can say comes later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

from edgegen import __version__
from edgegen.pack import (
    LAYER_TABLE,
    GraphEntry,
    IpLayer,
    Manifest,
    SecondTokenizer,
    TokenizerEntry,
    file_entry,
)

from .buildoptions import BuildOptions
from .control import CONTROL
from .cut import HEAD, TAIL
from .defaults import PackDefaults, default_settings, default_sizes, pack_name
from .imageprompt import IMAGE
from .plan import Plan
from .source import Source
from .vocabulary import second_padding

CUT = {"vae_decoder_head": HEAD, "vae_decoder_tail": TAIL}


@dataclass(frozen=True)
class Description:
    """Of a pack whose tokenizer lies in its folder `pack` already."""

    source: Source
    given: PackDefaults
    options: BuildOptions
    pack: Path
    roles: Sequence[str]

    def of_settings(self) -> Manifest:
        """Before there are graphs: its `graphs` name files that are not there yet."""
        nothing = file_entry(self.pack / "tokenizer.json")
        names = {role: f"{role}/model.onnx" for role in self.roles}
        precision = self.options.precision
        entries = {r: GraphEntry(file=n, precision=precision, files={n: nothing}) for r, n in names.items()}
        return self._manifest(entries, None)

    def of_graphs(self, plan: Plan, is_cut: bool, ip_layers: list[IpLayer] | None = None) -> Manifest:
        """With the files as they are now. The two parts of a cut decoder share its weights, and all denoisers
        theirs."""
        entries = {role: self._entry(role) for role in self.roles}
        if is_cut:
            entries |= {role: self._entry("vae_decoder", name) for role, name in CUT.items()}
        denoisers = {"unet": "model.onnx", **({"unet_control": CONTROL} if self.options.with_control else {})}
        if ip_layers:
            denoisers |= {f"{role}_ip": IMAGE[name] for role, name in denoisers.items()}
        entries |= {role: self._entry("unet", name) for role, name in denoisers.items()}
        return self._manifest(entries, plan, ip_layers)

    @cached_property
    def tokenizer_2(self) -> SecondTokenizer | None:
        """How the prompts of SDXL's second text encoder are padded, where that differs from the first's."""
        if not self.source.is_sdxl:
            return None
        padding = second_padding(self.source.tokenizer, self.source.tokenizer_2, self.source.pad_token)
        return None if padding is None else SecondTokenizer(pad_token_id=padding)

    def _entry(self, folder: str, graph: str = "model.onnx") -> GraphEntry:
        there = (self.pack / folder / name for name in (graph, "model.onnx.data", LAYER_TABLE))
        files = {f"{folder}/{path.name}": file_entry(path) for path in there if path.exists()}
        return GraphEntry(file=f"{folder}/{graph}", precision=self.options.precision, files=files)

    def _manifest(
        self, graphs: dict[str, GraphEntry], plan: Plan | None, ip_layers: list[IpLayer] | None = None
    ) -> Manifest:
        s, int8 = self.source, self.options.precision == "int8"
        schedule = s.schedule
        name = pack_name(s, self.given)
        tokenizer = file_entry(self.pack / "tokenizer.json")
        return Manifest(
            name=name,
            title=self.given.title or name,
            family=self.given.family or s.family,
            graphs=graphs,
            tokenizer=TokenizerEntry(
                file="tokenizer.json", sha256=tokenizer.sha256, bytes=tokenizer.bytes, max_length=s.max_length
            ),
            tokenizer_2=self.tokenizer_2,
            prediction_type=s.prediction_type,  # type: ignore[arg-type]
            beta_schedule=schedule.beta_schedule,  # type: ignore[arg-type]
            beta_start=schedule.beta_start,
            beta_end=schedule.beta_end,
            num_train_timesteps=schedule.num_train_timesteps,
            rescale_zero_terminal_snr=schedule.rescale_zero_terminal_snr,
            timestep_spacing=schedule.timestep_spacing,  # type: ignore[arg-type]
            steps_offset=schedule.steps_offset,
            latent_channels=s.latent_channels,
            latent_downscale=s.latent_downscale,
            latent_scale=s.latent_scale,
            guidance_embedding_dim=s.guidance_embedding_dim,
            ip_layers=ip_layers,
            defaults=default_settings(s, self.given),
            sizes=default_sizes(s, self.given),
            target=self.options.int8.target if int8 else "any",
            licence=self.given.licence or "not stated by the source",
            provenance={**self.given.provenance, "quantized": self._how(plan)},
        )

    def _how(self, plan: Plan | None) -> dict[str, Any]:
        o = self.options
        how: dict[str, Any] = {
            "by": f"edgegen {__version__}",
            "checkpoint": self.source.folder.resolve().name,
            "precision": o.precision,
            "onnxruntime": onnxruntime.__version__,
            "torch": torch.__version__.split("+")[0],
            "onnx": onnx.__version__,
        }
        if o.precision == "int8" and plan:
            how["calibration"] = {
                "method": o.int8.method,
                "pictures": plan.recording_pictures,
                "steps": plan.recording_steps,
                "seed": o.seed,
                "keep_float": list(o.int8.keep_float),
                **({"ip_adapter": o.ip_adapter.name} if o.ip_adapter else {}),
            }
        return how
