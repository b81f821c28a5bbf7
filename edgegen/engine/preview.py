"""Previews of a picture under way, small enough to be sent after every step."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ..diffusion.preview import RgbFactors, factors_for, preview_pixels
from ..errors import StorageError
from ..pack import Manifest
from .metadata import FORMATS, format_of

LONGEST_SIDE = 256
QUALITY = 80


def manifest_factors(manifest: Manifest) -> RgbFactors | None:
    """A pack's own factors, else its family's; None: it has no preview."""
    told = manifest.latent_rgb
    own = RgbFactors(told.factors, told.bias) if told else None
    return factors_for(manifest.family, manifest.latent_channels, own)


def encode_preview(
    denoised: np.ndarray | None, manifest: Manifest, file_format: str = "jpeg"
) -> bytes | None:
    """(b, c, h, w) latents as predicted in a step -> a picture's file, its longer side 256 pixels or as the
    picture's own; None before any work, and for packs without factors."""
    factors = manifest_factors(manifest)
    if denoised is None or factors is None:
        return None
    image = Image.fromarray(preview_pixels(denoised, factors))
    longest = min(LONGEST_SIDE, max(image.size) * manifest.latent_downscale)
    width, height = (max(1, side * longest // max(image.size)) for side in image.size)
    out = io.BytesIO()
    image.resize((width, height), Image.Resampling.BICUBIC).save(out, FORMATS[file_format], quality=QUALITY)
    return out.getvalue()


class PreviewFile:
    """One file that always holds the newest preview, whole. It is not made to last: nothing is synced.

    Raises:
        StorageError: its name ends in no format, or it cannot be written.
    """

    def __init__(self, path: Path):
        self._path = path
        self._format = format_of(path)

    def show(self, denoised: np.ndarray | None, manifest: Manifest) -> None:
        """Write the preview of a step, where there is one."""
        data = encode_preview(denoised, manifest, self._format)
        if data is None:
            return
        part = self._path.with_name(f".{self._path.name}.part")
        try:
            part.write_bytes(data)
            part.replace(self._path)
        except OSError as err:
            raise StorageError(f"cannot write {self._path}: {err.strerror or err}") from err
