"""What is not read at all: pickles, whatever they are called, and why not."""

from __future__ import annotations

from edgegen.errors import EdgegenError

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
CONVERT = (
    "convert it once, where you trust it, with diffusers: "
    "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER, safe_serialization=True); "
    "an upscaler as docs/QUANTIZE.md says"
)


class SourceError(EdgegenError, ValueError):
    """The checkpoint to quantize is missing something, or is of a kind that is not read."""

    code = "bad_source"
    exit_code = 2


def raise_if(path: object, problems: list[str]) -> None:
    """Raise SourceError naming every problem, if there is one."""
    if problems:
        raise SourceError(f"{path} cannot be quantized: " + "; ".join(problems))
