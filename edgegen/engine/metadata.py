"""A picture's file: its pixels, and the words, seed and settings it came from.

PNG carries two text chunks: `parameters` as AUTOMATIC1111's web UI writes it, which many viewers show,
and `edgegen`, a JSON object. JPEG and WebP carry the same in EXIF (UserComment and ImageDescription).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from .. import __version__
from ..errors import StorageError
from ..pack import replace_file
from ..workflow import Workflow
from .pipeline import Picture

FORMATS = {"png": "PNG", "webp": "WEBP", "jpeg": "JPEG"}
SUFFIXES = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}
QUALITY = {"webp": 92, "jpeg": 94}
PNG_LEVEL = 4  # zlib's own 6 takes 2.5 times as long for 1 % fewer bytes
MAX_PIXELS = 8192 * 8192
SAMPLER_NAMES = {
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "heun": "Heun",
    "dpm_2": "DPM2",
    "dpm_2_ancestral": "DPM2 a",
    "lms": "LMS",
    "dpmpp_2s_ancestral": "DPM++ 2S a",
    "dpmpp_sde": "DPM++ SDE",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "ddim": "DDIM",
    "uni_pc": "UniPC",
    "lcm": "LCM",
    "ipndm": "IPNDM",
    "uni_pc_bh2": "UniPC bh2",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "ddpm": "DDPM",
    "pndm": "PLMS",
    "heunpp2": "HeunPP2",
    "ipndm_v": "IPNDM_V",
    "deis": "DEIS",
    "res_multistep": "Res Multistep",
    "res_multistep_ancestral": "Res Multistep a",
    "gradient_estimation": "Gradient Estimation",
    "euler_cfg_pp": "Euler CFG++",
    "euler_ancestral_cfg_pp": "Euler a CFG++",
    "dpmpp_2s_ancestral_cfg_pp": "DPM++ 2S a CFG++",
    "dpmpp_2m_cfg_pp": "DPM++ 2M CFG++",
    "res_multistep_cfg_pp": "Res Multistep CFG++",
    "res_multistep_ancestral_cfg_pp": "Res Multistep a CFG++",
    "gradient_estimation_cfg_pp": "Gradient Estimation CFG++",
    "dpmpp_sde_gpu": "DPM++ SDE GPU",
    "dpmpp_2m_sde_gpu": "DPM++ 2M SDE GPU",
    "dpmpp_3m_sde_gpu": "DPM++ 3M SDE GPU",
}
SCHEDULE_NAMES = {
    "normal": "Normal",
    "karras": "Karras",
    "exponential": "Exponential",
    "sgm_uniform": "SGM Uniform",
    "simple": "Simple",
    "ddim_uniform": "DDIM",
    "beta": "Beta",
}
_IMAGE_DESCRIPTION, _SOFTWARE, EXIF_IFD, USER_COMMENT = 0x010E, 0x0131, 0x8769, 0x9286


def describe(picture: Picture) -> dict[str, Any]:
    """What the `edgegen` chunk holds: enough to make the same picture again."""
    settings = asdict(picture.settings)
    loras = settings.pop("loras")
    return {
        **settings,
        **({"loras": [_told_lora(use) for use in loras]} if loras else {}),
        "pack": picture.pack_name,
        "provider": picture.provider,
        "seconds": round(picture.seconds, 3),
        **({"decoding": picture.decoding} if picture.decoding else {}),
        "version": __version__,
    }


def _told_lora(use: dict[str, Any]) -> dict[str, Any]:
    """Its file's name, not the folder of this machine."""
    strengths = {"strength": use["model"]} | ({"clip": use["clip"]} if use["clip"] != use["model"] else {})
    return {"name": use["path"].name, **strengths}


def parameters_text(picture: Picture) -> str:
    """The `parameters` text: prompt, negative prompt, and one line of settings."""
    s = picture.settings
    sampler = SAMPLER_NAMES.get(s.sampler, s.sampler)
    schedule = f"Schedule type: {SCHEDULE_NAMES.get(s.schedule, s.schedule)}, " if s.schedule else ""
    lines = [s.prompt, *([f"Negative prompt: {s.negative_prompt}"] if s.negative_prompt else [])]
    lines.append(
        f"Steps: {s.steps}, Sampler: {sampler}, {schedule}CFG scale: {s.guidance:g}, Seed: {s.seed}, "
        f"Size: {s.width}x{s.height}, Model: {picture.pack_name}, Version: edgegen {__version__}"
    )
    return "\n".join(lines)


def encode_picture(picture: Picture, file_format: str = "png") -> bytes:
    """The picture's file as bytes. Raises ValueError for a format other than png, webp, jpeg."""
    if file_format not in FORMATS:
        raise ValueError(f"format is {file_format!r}; known are {', '.join(FORMATS)}")
    image = Image.fromarray(picture.pixels)
    out = io.BytesIO()
    if file_format == "png":
        image.save(out, "PNG", pnginfo=_png_text(picture), compress_level=PNG_LEVEL)
    else:
        image.save(out, FORMATS[file_format], quality=QUALITY[file_format], exif=_exif(picture))
    return out.getvalue()


def _png_text(picture: Picture) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("parameters", parameters_text(picture))
    info.add_itxt("edgegen", json.dumps(describe(picture), ensure_ascii=False))
    return info


def _exif(picture: Picture) -> Image.Exif:
    exif = Image.Exif()
    exif[_IMAGE_DESCRIPTION] = json.dumps(describe(picture))  # ASCII, as EXIF demands
    exif[_SOFTWARE] = f"edgegen {__version__}"
    comment = b"UNICODE\0" + parameters_text(picture).encode("utf-16-be")
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = comment
    return exif


def encode_workflow_picture(
    pixels: np.ndarray, workflow: Workflow, told: Mapping[str, Any], file_format: str = "png"
) -> bytes:
    """A workflow's picture as a file: PNG text `prompt` holds the workflow as it ran and `workflow` the
    editor's form of it, if there was one, as ComfyUI writes them; `edgegen` what else is known.

    Args:
        told: the packs, provider and seconds.
    Raises:
        ValueError: a format other than png, webp, jpeg.
    """
    if file_format not in FORMATS:
        raise ValueError(f"format is {file_format!r}; known are {', '.join(FORMATS)}")
    image = Image.fromarray(pixels)
    out = io.BytesIO()
    ours = json.dumps({**told, "version": __version__})
    if file_format == "png":
        info = PngImagePlugin.PngInfo()
        info.add_text("prompt", json.dumps(workflow.as_data()))  # ASCII, as a tEXt chunk demands
        if workflow.editor is not None:
            info.add_text("workflow", json.dumps(workflow.editor))
        info.add_itxt("edgegen", ours)
        image.save(out, "PNG", pnginfo=info, compress_level=PNG_LEVEL)
        return out.getvalue()
    exif = Image.Exif()
    exif[_IMAGE_DESCRIPTION] = ours
    exif[_SOFTWARE] = f"edgegen {__version__}"
    image.save(out, FORMATS[file_format], quality=QUALITY[file_format], exif=exif)
    return out.getvalue()


def save_picture(picture: Picture, path: Path, file_format: str | None = None) -> None:
    """Write the picture so that a power cut leaves the whole file or none.

    Args:
        file_format: `png`, `webp` or `jpeg`; by the path's suffix when None.
    Raises:
        StorageError: the file cannot be written, or its suffix names no format.
    """
    chosen = file_format or format_of(path)
    write_picture(path, encode_picture(picture, chosen))


def save_workflow_picture(
    pixels: np.ndarray, workflow: Workflow, told: Mapping[str, Any], path: Path
) -> None:
    """A workflow's picture, its format by the path's suffix. Raises as `save_picture`."""
    write_picture(path, encode_workflow_picture(pixels, workflow, told, format_of(path)))


def format_of(path: Path) -> str:
    """Raises StorageError when the suffix names no format."""
    if (found := SUFFIXES.get(path.suffix.lower())) is None:
        raise StorageError(f"{path}: the file's name must end in {', '.join(SUFFIXES)}")
    return found


def write_picture(path: Path, data: bytes) -> None:
    """Whole or not at all. Raises StorageError."""
    try:
        replace_file(path, data)
    except OSError as err:
        raise StorageError(f"cannot write {path}: {err.strerror or err}") from err


def read_metadata(path: Path) -> dict[str, Any] | None:
    """What `describe` wrote into a picture; None when it holds nothing of ours or is no picture.

    The file is taken as hostile: only three formats are tried, and no pixel is decoded.
    """
    try:
        with Image.open(path, formats=list(FORMATS.values())) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            text = (
                image.info.get("edgegen")
                if image.format == "PNG"
                else image.getexif().get(_IMAGE_DESCRIPTION)
            )
        found = json.loads(text) if isinstance(text, str) else None
    except (OSError, ValueError, SyntaxError, RecursionError, Image.DecompressionBombError):
        return None
    return found if isinstance(found, dict) else None
