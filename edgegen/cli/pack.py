"""`edgegen pack`: what is installed, what is in it, and whether its files are intact."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgegen.errors import PackError

from .app import App, fail, pass_app
from .complete import packs
from .output import coloured, complain, megabytes, printable, say, say_json, shorten, table

if TYPE_CHECKING:
    from edgegen.component import Component
    from edgegen.pack import Manifest, Pack, PackFolder, PackHead
    from edgegen.settings import Settings

COLUMNS = ("NAME", "FAMILY", "PRECISION", "MB", "STEPS", "SIZE", "LICENCE")


def locate(name: str, settings: Settings) -> Pack:
    """The pack of that name or folder, even if its files are damaged, as long as pack.json can be read.

    Raises:
        UnknownPack: nothing of that name is installed.
        PackError: its pack.json cannot be read.
    """
    from edgegen.config.files import pack_dirs
    from edgegen.pack import Pack, find_pack, read_manifest, scan_packs

    folders = pack_dirs(settings)
    try:
        return find_pack(name, folders)
    except PackError:
        broken = [Path(name).expanduser()] if "/" in name else list(scan_packs(folders)[1])
        for folder in broken:
            if folder.is_dir() and (folder.name == name or "/" in name):
                return Pack(folder, read_manifest(folder))
        raise


def locate_any(name: str, settings: Settings) -> PackFolder:
    """As `locate`, also of packs that only help others, as upscalers."""
    from edgegen.component import Component, read_component
    from edgegen.pack import ComponentPack

    try:
        return locate(name, settings)
    except ComponentPack as err:
        return Component(err.folder, read_component(err.folder))


def precision(pack: PackFolder) -> str:
    """`int8`, or `fp16+int8` where the graphs differ."""
    return "+".join(sorted({graph.precision for graph in pack.manifest.graphs.values()}))


def summary(pack: Pack, default_name: str) -> dict[str, Any]:
    """One pack as `pack list --json` gives it."""
    manifest = pack.manifest
    return {
        "name": pack.name,
        "title": manifest.title,
        "default": pack.name == default_name,
        "family": manifest.family,
        "precision": precision(pack),
        "bytes": pack.size_bytes,
        "defaults": manifest.defaults.model_dump(),
        "min_ram_mb": manifest.min_ram_mb,
        "ram_mb": manifest.ram_mb and manifest.ram_mb.model_dump(),
        "licence": manifest.licence,
        "folder": str(pack.folder),
    }


def component_summary(component: Component) -> dict[str, Any]:
    """One pack that only helps others as `pack list --json` gives it."""
    manifest = component.manifest
    return {
        "name": component.name,
        "title": manifest.title,
        "kind": manifest.kind,
        "precision": precision(component),
        "bytes": component.size_bytes,
        "scale": manifest.scale if manifest.kind == "upscaler" else None,
        "words_width": manifest.words_width,
        "licence": manifest.licence,
        "folder": str(component.folder),
    }


@click.group()
def pack() -> None:
    """Packs: the graphs, tokenizer and manifest that make pictures.

    \b
    Examples:
      edgegen pack list
      edgegen pack show pocket
      edgegen pack verify ./my-pack
    """


@pack.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_app
def list_(app: App, as_json: bool) -> None:
    """List installed packs; * marks the one jobs get that name none.

    \b
    Examples:
      edgegen pack list
      edgegen pack list --json | jq -r '.packs[].name'
    """
    from edgegen.component import scan_components
    from edgegen.config.files import pack_dirs
    from edgegen.pack import scan_packs

    packs, broken = scan_packs(pack_dirs(app.settings))
    components, bad_components = scan_components(pack_dirs(app.settings))
    broken |= bad_components
    default = app.settings.engine.pack
    if as_json:
        bad = [{"folder": str(folder), "reason": str(err)} for folder, err in broken.items()]
        rows = {"packs": [summary(p, default) for p in packs], "broken": bad}
        say_json({**rows, "components": [component_summary(c) for c in components]})
        return
    lines = [*(_row(p, default) for p in packs), *map(_component_row, components)]
    for line in table(COLUMNS, lines, right=("MB", "STEPS")):
        say(line)
    for err in broken.values():
        complain(err)


def _row(pack: Pack, default: str) -> list[str]:
    manifest = pack.manifest
    return [
        f"{pack.name}{' *' if pack.name == default else ''}",
        manifest.family,
        precision(pack),
        megabytes(pack.size_bytes),
        str(manifest.defaults.steps),
        f"{manifest.defaults.width}x{manifest.defaults.height}",
        shorten(manifest.licence, 30),
    ]


def _component_row(component: Component) -> list[str]:
    m = component.manifest
    return [
        component.name, m.kind, precision(component), megabytes(component.size_bytes), "-", m.does,
        shorten(m.licence, 30),
    ]  # fmt: skip


@pack.command()
@click.argument("name", required=False, shell_complete=packs)
@click.option("--json", "as_json", is_flag=True, help="Print the whole pack.json.")
@pass_app
def show(app: App, name: str | None, as_json: bool) -> None:
    """Show one pack: NAME, or a folder (with a /). Default: the configured one.

    \b
    Examples:
      edgegen pack show
      edgegen pack show pocket
      edgegen pack show ./my-pack --json
    """
    found = locate_any(name or app.settings.engine.pack, app.settings)
    if as_json:
        say_json({"folder": str(found.folder), **found.manifest.model_dump(mode="json")})
        return
    for key, value in _facts(found):
        say(f"{key:<13}{printable(value)}")
    for key, value in _flat(found.manifest.evaluation, "evaluation"):
        say(f"{key}: {printable(value)}")
    for key, value in _flat(found.manifest.provenance, "provenance"):
        say(f"{key}: {printable(value)}")


def memory_line(m: Manifest) -> str:
    """`140 MB of memory, 90 in memory mode low`, as far as it was measured."""
    if m.ram_mb:
        tiled = f", {m.ram_mb.tiled} in mode tiled" if m.ram_mb.tiled else ""
        first = f"{m.ram_mb.full} MB of memory, {m.ram_mb.mapped} in mode mapped"
        return f"{first}, {m.ram_mb.low} in mode low{tiled}"
    return f"{m.min_ram_mb} MB of memory" if m.min_ram_mb else "memory not measured"


def _facts(pack: PackFolder) -> Iterable[tuple[str, str]]:
    from edgegen.pack import Manifest

    m = pack.manifest
    yield "name", pack.name
    yield "title", m.title
    yield "folder", str(pack.folder)
    yield from _facts_of(m) if isinstance(m, Manifest) else _component_facts(m)
    yield "size on disk", f"{megabytes(pack.size_bytes)} MB"
    yield "licence", m.licence
    for role, graph in m.graphs.items():
        size = sum(entry.bytes for entry in graph.files.values())
        yield "graph", f"{role}: {graph.file}, {graph.precision}, {megabytes(size)} MB"


def _facts_of(m: Manifest) -> Iterable[tuple[str, str]]:
    d = m.defaults
    yield "family", f"{m.family}, {m.prediction_type}, made for {m.target}"
    yield "needs", memory_line(m)
    yield "default", f"{d.width}x{d.height}, {d.steps} steps of {d.sampler}, guidance {d.guidance:g}"
    yield "sizes", str(m.sizes)


def _component_facts(m: PackHead) -> Iterable[tuple[str, str]]:
    from edgegen.component import ComponentManifest

    if isinstance(m, ComponentManifest):
        yield "kind", f"{m.kind}, {m.does}, for workflows"


def _flat(value: Any, key: str) -> Iterable[tuple[str, str]]:
    if isinstance(value, dict):
        for inner, item in value.items():
            yield from _flat(item, f"{printable(key)}.{printable(inner)}")
    else:
        yield key, str(value)


@pack.command()
@click.argument("name", required=False, shell_complete=packs)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_app
def verify(app: App, name: str | None, as_json: bool) -> None:
    """Check every file of a pack against the SHA-256 in its manifest; exit 3 if one is bad.

    NAME is an installed pack or a folder (with a /). Default: the configured one.

    \b
    Examples:
      edgegen pack verify
      edgegen pack verify ./my-pack
      edgegen pack verify pocket --json
    """
    found = locate_any(name or app.settings.engine.pack, app.settings)
    results = []
    for path, problem in found.check_files():
        results.append({"file": path, "ok": problem is None, "problem": problem})
        if not as_json:
            word = coloured("OK ", "ok") if problem is None else coloured("BAD", "bad")
            say(f"{word}  {printable(problem or path)}")
    bad = [r for r in results if not r["ok"]]
    if as_json:
        say_json({"name": found.name, "folder": str(found.folder), "ok": not bad, "files": results})
    if bad:
        fail(
            PackError(
                f"pack {found.name}: {len(bad)} of {len(results)} files are bad; install the pack again"
            )
        )
