"""`edgegen lora`: which LoRA files there are, what is in them, and whether a pack takes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgegen.errors import BadRequest, LoraError, Problem

from .app import App, fail, pass_app
from .complete import lora_names, loras, packs
from .output import complain, megabytes, note, say, say_json, shorten, table

if TYPE_CHECKING:
    from edgegen.engine.lora.described import Described, Fit
    from edgegen.pack import Pack

GRAPHS = {"unet": "denoiser", "text_encoder": "text encoder", "text_encoder_2": "text encoder 2"}
COLUMNS = ("NAME", "KIND", "RANK", "LAYERS", "MB", "WORDS")
pack_option = click.option(
    "--pack", "pack_name", metavar="P", shell_complete=packs, help="Say which layers of this pack they match."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def lora() -> None:
    """LoRA files (.safetensors): small changes to a pack, merged for one picture.

    They lie in workflow.lora_dir, by default the folder loras of node.data_dir.

    \b
    Examples:
      edgegen lora list
      edgegen lora show ink --pack sd15
      edgegen generate "a cottage, inkwash" --lora ink:0.8
    """


@lora.command("list")
@pack_option
@json_option
@pass_app
def list_(app: App, pack_name: str | None, as_json: bool) -> None:
    """List the files of the LoRA folder, by the names that --lora and jobs know them by.

    LAYERS counts what a file changes; with --pack, how many of those that pack has. WORDS are to stand in the
    prompt: from the file's maker, or with a ~ what most of the training's pictures were tagged with. Files
    that cannot be merged are named on stderr, with the reason.

    \b
    Examples:
      edgegen lora list
      edgegen lora list --pack sd15
      edgegen lora list --json | jq -r '.loras[] | select(.base | test("xl"; "i")) | .name'
    """
    from edgegen.config.files import lora_dir
    from edgegen.engine.lora.files import find_lora

    folder, pack = lora_dir(app.settings), find(app, pack_name)
    rows, bad = [], []
    for name in lora_names(folder) if folder.is_dir() else ():
        try:
            rows.append(summary(name, find_lora(folder, name), pack))
        except LoraError as err:
            bad.append({"name": name, "reason": str(err)})
        except BadRequest:
            bad.append({"name": name, "reason": f"{name}.safetensors is a link that leads out of {folder}"})
    if as_json:
        say_json({"folder": str(folder), "loras": rows, "unsupported": bad})
        return
    if rows:
        for line in table(COLUMNS, map(_row, rows), right=("RANK", "LAYERS", "MB")):
            say(line)
    elif not bad:
        note(f"no LoRA files in {folder}")
    for problem in bad:
        complain(problem["reason"])


@lora.command()
@click.argument("file", shell_complete=loras)
@pack_option
@json_option
@pass_app
def show(app: App, file: str, pack_name: str | None, as_json: bool) -> None:
    """Show one file: FILE is a path, or a name that `edgegen lora list` tells.

    What its maker wrote into it is shown as it is: nobody has checked that. With --pack, whether that pack
    takes it, and if not, why; exit 2 if it does not.

    \b
    Examples:
      edgegen lora show ink
      edgegen lora show ./ink.safetensors --pack sd15
      edgegen lora show ink --json | jq -r '.words[]'
    """
    path = locate(app, file)
    told = summary(file, path, find(app, pack_name))
    if as_json:
        say_json(told)
    else:
        for key, value in _facts(told):
            say(f"{key:<13}{shorten(value, 500)}")
    if told["pack"] and told["pack"]["problem"]:
        fail(LoraError(f"{path.name} does not fit pack {told['pack']['name']}: {told['pack']['problem']}"))


def find(app: App, name: str | None) -> Pack | None:
    from .generate import choose_pack

    return choose_pack(app, name) if name else None


def locate(app: App, name: str) -> Path:
    """A path, or a name in the LoRA folder. Raises BadRequest: there is no such file."""
    from edgegen.config.files import lora_dir
    from edgegen.engine.lora.files import find_lora

    if Path(name).is_file():
        return Path(name)
    try:
        return find_lora(lora_dir(app.settings), name)
    except BadRequest as err:
        message = f"{name}: {err}, and no file; edgegen lora list tells the names"
        raise BadRequest([Problem("file", name, message)]) from err


def summary(name: str, path: Path, pack: Pack | None) -> dict[str, Any]:
    """One file as `lora list --json` gives it. Raises LoraError: it cannot be merged anywhere."""
    from edgegen.engine.lora.adapter import Adapter
    from edgegen.engine.lora.described import described, fit

    adapter = Adapter(path)
    told: Described = described(adapter)
    matched: Fit | None = fit(adapter, pack) if pack else None
    facts = {"name": name, "file": str(path), "bytes": path.stat().st_size}
    return {**facts, **asdict(told), "pack": matched.told() if matched else None}


def _row(told: dict[str, Any]) -> list[str]:
    fit = told["pack"]
    layers = f"{fit['layers']} of {fit['of']}" if fit else str(sum(told["changes"].values()))
    return [
        shorten(told["name"], 40),
        "+".join(told["kinds"]),
        span(told["ranks"]),
        layers + (" !" if fit and fit["problem"] else ""),
        megabytes(told["bytes"]),
        words_of(told, 40) or "-",
    ]


def span(numbers: list[float]) -> str:
    """`16`, or `4-32`, or `-`: from the least to the greatest."""
    ends = [f"{number:g}" for number in sorted({*numbers[:1], *numbers[-1:]})]
    return "-".join(ends) or "-"


def words_of(told: dict[str, Any], width: int) -> str:
    """The words for the prompt, with a ~ before what nobody said was meant for it."""
    words = shorten(", ".join(told["words"]), width)
    return f"~{words}" if words and not told["words_told"] else words


def _facts(told: dict[str, Any]) -> Iterable[tuple[str, str]]:
    yield "name", told["name"]
    yield "file", f"{told['file']}, {megabytes(told['bytes'])} MB"
    yield "kind", f"{' and '.join(told['kinds'])}, rank {span(told['ranks'])}, alpha {span(told['alphas'])}"
    for graph, count in told["changes"].items():
        yield "changes", f"{GRAPHS[graph]}: {count} layers"
    for key in ("title", "base", "author", "licence", "description"):
        if told[key]:
            yield {"base": "made for"}.get(key, key), told[key]
    if told["words"]:
        yield "words" if told["words_told"] else "tagged with", ", ".join(told["words"])
    if fit := told["pack"]:
        verdict = f"refused: {fit['problem']}" if fit["problem"] else "taken"
        yield "pack", f"{fit['name']}: {fit['layers']} of {fit['of']} layers match; {verdict}"
