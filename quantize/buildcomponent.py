"""A model that only helps others becomes a pack: export, check, convert; all or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

from edgegen import __version__
from edgegen.component import ComponentManifest, Kind
from edgegen.pack import GraphEntry, Pack, Precision, file_entry, write_manifest

from .components import Layout, kind_of, manifest_facts, spec_of
from .controlint8 import check_base, convert_net
from .controlnets import ControlNetLayout
from .convert import Int8Options
from .defaults import PackDefaults, name_of, read_defaults
from .export import export_spec
from .fp16 import convert_fp16
from .progress import Progress
from .refusal import SourceError
from .rewrites import copy_stamped
from .specs import GraphSpec
from .work import work_folder

PRECISIONS = ("fp32", "fp16")


@dataclass(frozen=True)
class Int8Plan:
    """How a ControlNet becomes INT8.

    Attributes:
        base: the pack whose denoiser it leads while ranges are recorded. prompts: to record, and to judge by.
    """

    base: Path
    prompts: tuple[Sequence[str], Sequence[str]]
    options: Int8Options


def check_precision(precision: str, layout: Layout, plan: Int8Plan | None) -> None:
    """Raises SourceError for one that such a pack does not come in."""
    if precision == "int8" and isinstance(layout, ControlNetLayout):
        if plan is None:
            raise SourceError("--precision int8 of a ControlNet needs --base PACK: a denoiser for it to lead")
        check_base(Pack.open(plan.base), layout.words_width)
    elif precision not in PRECISIONS:
        allowed = " or ".join(PRECISIONS)
        raise SourceError(f"--precision {precision} is not made of such a model; it may be {allowed}")


def build_component(
    path: Path,
    layout: Layout,
    out: Path,
    precision: Precision,
    given: PackDefaults,
    progress: Progress,
    force: bool = False,
    int8: Int8Plan | None = None,
) -> ComponentManifest:
    """Build a pack that helps others; nothing appears at `out` before all of it is done.

    Args:
        path: the .safetensors file, or folder.
        layout: what `find_component` told of it.
        given: name, title and licence that the checkpoint cannot say.
        int8: of a ControlNet with that precision.
    Raises:
        SourceError: the precision. StorageError: `out` exists, or cannot be written.
        ExportError: the graph computes something else than torch.
    """
    check_precision(precision, layout, int8)
    kind = kind_of(layout)
    progress.expect([(f"export {kind}", 3.0), (f"convert {kind}", 1.0)])
    with work_folder(out, force) as work:
        progress.begin(f"export {kind}")
        graph = work.folder / "fp32" / kind / "model.onnx"
        error = _exported(spec_of(path, layout), graph)
        progress.say(f"exported {kind}: within {error:.1e} of torch")
        progress.begin(f"convert {kind}")
        judged: dict[str, Any] = {}
        if precision == "int8" and int8 is not None:
            out = work.folder / "pack" / kind / graph.name
            base = Pack.open(int8.base)
            judged = convert_net(graph, out, base, int8.prompts, int8.options, progress.say).evaluation
        entry = _converted(graph, work.folder / "pack", kind, precision)
        told = _told(path, given, precision, error)
        told["evaluation"] |= judged
        manifest = ComponentManifest(**told, **manifest_facts(layout), kind=kind, graphs={kind: entry})
        write_manifest(work.folder / "pack", manifest)
        progress.finish()
    return manifest


def _exported(spec: GraphSpec, graph: Path) -> float:
    graph.parent.mkdir(parents=True)
    torch.manual_seed(0)
    return export_spec(spec, graph)


def _converted(graph: Path, pack: Path, role: Kind, precision: Precision) -> GraphEntry:
    """The graph in the pack, and what the manifest says of it."""
    out = pack / role / graph.name
    if precision == "int8":
        pass  # it is there
    elif precision == "fp16":
        convert_fp16(graph, out, __version__)
    else:
        copy_stamped(graph, out, __version__)
    onnx.checker.check_model(str(out))
    files = {f"{role}/{path.name}": file_entry(path) for path in sorted(out.parent.iterdir())}
    return GraphEntry(file=f"{role}/{out.name}", precision=precision, files=files)


def _told(path: Path, given: PackDefaults, precision: Precision, error: float) -> dict[str, Any]:
    """The part of the manifest that is the same for all kinds."""
    name = given.name or name_of(path)
    how = {
        "by": f"edgegen {__version__}",
        "checkpoint": path.resolve().name,
        "precision": precision,
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__.split("+")[0],
        "onnx": onnx.__version__,
    }
    return {
        "name": name,
        "title": given.title or name,
        "licence": given.licence or "not stated by the source",
        "provenance": {**given.provenance, "quantized": how},
        "evaluation": {"export_relative_error": float(f"{error:.2e}")},
    }


def given_for(path: Path, flags: dict[str, Any]) -> PackDefaults:
    """What the file beside the checkpoint says, and the flags over it. Raises SourceError."""
    update = {key: flags[key] for key in ("name", "title", "licence") if flags[key]}
    return PackDefaults.model_validate(read_defaults(path).model_copy(update=update).model_dump())
