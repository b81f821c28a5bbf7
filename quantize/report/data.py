"""`report.json`: what was measured of a pack and is too much for its manifest.

`pack.json` holds the evaluation's figures; this holds pictures, each picture's own figures and what every
graph costs alone. Both come from outside: shapes are checked here, words are escaped by the page.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgegen.errors import PackError

REPORT_NAME = "report.json"
PAGE_NAME = "report.html"
MAX_BYTES = 16 << 20

Picture = Annotated[str, Field(pattern=r"^data:image/webp;base64,[A-Za-z0-9+/]+={0,2}$")]
Words = Annotated[str, Field(max_length=10_000)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Machine(_Part):
    """Where it was measured. `threads` 0: ONNX Runtime's own choice, one a physical core."""

    cpu: Words
    cores: int = Field(ge=1)
    threads: int = Field(0, ge=0)
    onnxruntime: Words


class GraphCost(_Part):
    """One graph alone in a process, on the CPU provider.

    Attributes:
        seconds: one run, the median of `runs` after the first (of the first where there is but one).
        load_s: opening the session.
        peak_mb: largest resident memory of the process, 10^6 bytes; `base_mb` of it was there before.
        bytes: the graph's files.
    """

    seconds: float = Field(ge=0)
    load_s: float = Field(ge=0)
    peak_mb: int = Field(ge=0)
    base_mb: int = Field(ge=0)
    runs: int = Field(ge=1)
    bytes: int = Field(ge=0)


class CostPair(_Part):
    """The float32 graph and the pack's, measured one after the other on the same input."""

    reference: GraphCost
    pack: GraphCost


class PictureRow(_Part):
    """How far one picture is from float32's of the same words and seed."""

    prompt: Words
    seed: int
    ssim: float = Field(ge=-1, le=1)
    psnr_db: float


class Shown(_Part):
    """Three pictures of the row `row`; the difference is as strong as `Report.gain` makes it."""

    row: int = Field(ge=0)
    reference: Picture
    pack: Picture
    difference: Picture


class Report(_Part):
    """What `report.json` holds; an empty part was not measured.

    Attributes:
        export_errors: role -> largest difference of the float32 graph to PyTorch over the largest output.
        pictures: worst first.
        gain: how often the differences of channels were multiplied.
    """

    format_version: Literal[1] = 1
    made_by: Words
    machine: Machine
    export_errors: dict[str, float] = Field(default_factory=dict)
    costs: dict[str, CostPair] = Field(default_factory=dict)
    pictures: list[PictureRow] = Field(default_factory=list, max_length=100_000)
    shown: list[Shown] = Field(default_factory=list, max_length=200)
    gain: int = Field(8, ge=1, le=255)


def read_report(folder: Path) -> Report | None:
    """`folder/report.json`, or None where there is none. Raises PackError when it cannot be read."""
    path = folder / REPORT_NAME
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PackError(f"{path} is larger than {MAX_BYTES} bytes")
        report = Report.model_validate(json.loads(path.read_text("utf-8")))
    except OSError as err:
        raise PackError(f"{path} cannot be read: {err.strerror}") from err
    except ValidationError as err:
        first = err.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PackError(f"{path}: {where}: {first['msg']}; build the pack again") from None
    except (ValueError, RecursionError) as err:
        raise PackError(f"{path} is not valid JSON: {err}") from None
    if wrong := [shown.row for shown in report.shown if shown.row >= len(report.pictures)]:
        raise PackError(
            f"{path}: shown.row {wrong[0]} is not below {len(report.pictures)}, the pictures' count"
        )
    return report
