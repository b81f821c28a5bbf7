"""`edgegen generate`: words to a picture in this process, without the daemon."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgegen.errors import BadRequest, Problem, StorageError

from .app import App, pass_app
from .complete import loras
from .output import printable, say, say_json
from .progress import StepBar
from .request import picture_options, request_data, valid_request

if TYPE_CHECKING:
    from edgegen.engine.lora.merge import LoraUse
    from edgegen.engine.pipeline import GenerationSettings, Picture, TextToImage
    from edgegen.engine.preview import PreviewFile
    from edgegen.engine.providers import ProviderChoice
    from edgegen.pack import Pack

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")
SLUG_LENGTH = 48
MAX_COUNT = 10_000
MAX_STRENGTH = 100
MAX_SEED = 2**63 - 1


@click.command()
@click.argument("prompt", required=False)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    metavar="PICTURE",
    help="Take prompt, seed and settings from a picture; what else is given wins.",
)
@picture_options
@click.option(
    "--lora",
    "loras",
    multiple=True,
    metavar="FILE[:STRENGTH]",
    shell_complete=loras,
    help="Merge a LoRA (.safetensors) into the pack; repeatable. Strength: 1.",
)
@click.option("--provider", metavar="NAME", help="cpu, openvino or auto. Default: engine.provider.")
@click.option(
    "--memory",
    type=click.Choice(["auto", "full", "mapped", "low", "tiled"]),
    help="How to spend memory: low needs least for the same picture. Default: engine.memory.",
)
@click.option("--threads", type=click.IntRange(0, 256), metavar="N", help="0: one per usable core.")
@click.option(
    "--count", type=click.IntRange(1, MAX_COUNT), default=1, help="Pictures, with seeds one after another."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File (.png, .webp, .jpg) or folder. Default: named after the prompt, in this folder.",
)
@click.option(
    "--preview",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Keep a small picture here that shows how it looks after each step.",
)
@click.option("--force", is_flag=True, help="Overwrite a file that exists.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document with every picture.")
@pass_app
def generate(app: App, prompt: str | None, source: Path | None, **options: Any) -> None:
    """Make a picture of PROMPT here and now; PROMPT - reads stdin.

    Prints each picture's file, seed and seconds. The file remembers prompt, seed and settings.
    The daemon need not run; beside a running one, `edgegen queue add` spares memory. The configuration's
    word lists (prompts) hold here, too; its rates (rate) do not.

    \b
    Examples:
      edgegen generate "a red apple"
      edgegen generate "a red apple" --seed 7 --steps 8 --size 256x256 -o apple.webp
      edgegen generate "a rocket on a blue background" --count 4 -o rockets/
      edgegen generate "a red apple" --pack ./my-pack --provider cpu --threads 2
      edgegen generate --from apple.webp --steps 20 -o finer.png
      echo "a cat" | edgegen generate - --json | jq -r '.pictures[].file'
    """
    data = wanted_data(prompt, source, options)
    pack = choose_pack(app, data.pop("pack", None))
    settings = valid_request(data, pack, app.settings.limits)
    check_prompts(app, settings.prompt, settings.negative_prompt)
    settings = replace(settings, loras=wanted_loras(app, options["loras"], data.get("loras", [])))
    paths = output_paths(options["output"], settings.prompt, options["count"], options["force"])
    wanted = list(seeds_for(settings, options["count"]))
    engine = app.settings.engine
    threads = engine.threads if options["threads"] is None else options["threads"]
    from edgegen.engine.providers import choose_provider

    provider = choose_provider(options["provider"] or engine.provider, operators=engine.operators)
    memory = options["memory"] or engine.memory
    from edgegen.config.files import embedding_dir

    with open_pipeline(pack, provider, threads, memory, embedding_dir(app.settings)) as pipeline:
        made = draw_all(pipeline, wanted, paths, options["as_json"], open_preview(options["preview"], pack))
    if options["as_json"]:
        say_json({"pictures": made})


def wanted_data(prompt: str | None, source: Path | None, options: dict[str, Any]) -> dict[str, Any]:
    """What is asked for: a picture's recipe, if there is one, and over it the command line.

    Raises:
        BadRequest: neither a prompt nor a picture is given, or the picture tells no prompt.
    """
    if source is None:
        if prompt is None:
            message = 'give a prompt, as in edgegen generate "a red apple", or a picture with --from'
            raise BadRequest([Problem("prompt", None, message)])
        return request_data(prompt, options)
    from edgegen.engine.recipe import read_recipe

    recipe = read_recipe(source)
    return recipe | request_data(recipe.get("prompt", "") if prompt is None else prompt, options)


def wanted_loras(app: App, given: tuple[str, ...], told: list[dict[str, Any]]) -> tuple[LoraUse, ...]:
    """Files by path, or by name in `workflow.lora_dir`.

    Args:
        given: `FILE[:STRENGTH]` of the command line.
        told: of a picture that is made again; heeded when none are given.
    Raises:
        BadRequest: no such file, or a strength that is no number from -100 to 100.
    """
    if not (given or told):
        return ()
    from edgegen.config.files import lora_dir
    from edgegen.engine.lora.files import uses_of
    from edgegen.engine.lora.merge import LoraUse

    folder, found = lora_dir(app.settings), []
    for text in given:
        name, strength = split_strength(text)
        if Path(name).is_file():
            found.append(LoraUse(Path(name), strength, strength))
        else:
            found += uses_of(folder, [{"name": name, "strength": strength}])
    return tuple(found) if given else uses_of(folder, told)


def split_strength(text: str) -> tuple[str, float]:
    """`ink:0.8` -> (`ink`, 0.8); 1 where none is given. Raises BadRequest: beyond -100 to 100."""
    name, colon, last = text.rpartition(":")
    if not (colon and name) or Path(text).is_file():
        return text, 1.0
    try:
        strength = float(last)
    except ValueError:
        strength = math.nan
    if not -MAX_STRENGTH <= strength <= MAX_STRENGTH:
        message = f"{last} is no strength: -{MAX_STRENGTH} to {MAX_STRENGTH}, as in {name}:0.8"
        raise BadRequest([Problem("lora", text, message)])
    return name, strength


def check_prompts(app: App, *texts: str) -> None:
    """The device's word lists hold in a shell, too. Raises BlockedPrompt."""
    if app.settings.prompts == type(app.settings.prompts)():
        return  # no lists
    from edgegen.jobs.admission import prompt_rules

    rules = prompt_rules(app.settings.prompts)
    for text in texts:
        rules.check(text)


def choose_pack(app: App, name: str | None) -> Pack:
    """The pack of that name or folder, by default the configured one."""
    from edgegen.config.files import pack_dirs
    from edgegen.pack import find_pack

    return find_pack(name or app.settings.engine.pack, pack_dirs(app.settings))


def open_preview(path: Path | None, pack: Pack) -> PreviewFile | None:
    """Raises StorageError for a name without format, BadRequest for a pack that cannot be previewed."""
    if path is None:
        return None
    from edgegen.engine.preview import PreviewFile, manifest_factors

    if manifest_factors(pack.manifest) is None:
        message = f"pack {pack.name} does not say how its latents look (latent_rgb)"
        raise BadRequest([Problem("preview", str(path), message)])
    return PreviewFile(path)


def open_pipeline(
    pack: Pack, provider: ProviderChoice, threads: int, memory: str, embeddings: Path
) -> TextToImage:
    import logging

    from edgegen.engine.pipeline import TextToImage

    pipeline = TextToImage(pack, provider, threads, memory=memory, embeddings=embeddings)
    log, choice, mode = logging.getLogger(__name__), pipeline.provider, pipeline.memory
    log.info("provider %s: %s", choice.name, choice.reason)
    log.info("memory mode %s: %s", mode.mode.name, mode.reason)
    return pipeline


def seeds_for(settings: GenerationSettings, count: int) -> Iterator[GenerationSettings]:
    """The same request with `count` seeds in a row; after the greatest comes 0."""
    for i in range(count):
        yield replace(settings, seed=(settings.seed + i) % (MAX_SEED + 1))


def draw_all(
    pipeline: TextToImage,
    wanted: list[GenerationSettings],
    paths: list[Path],
    quiet: bool,
    preview: PreviewFile | None = None,
) -> list[dict[str, Any]]:
    """Make and save each picture, telling of it at once unless `quiet`."""
    from edgegen.engine.metadata import describe, save_picture

    made = []
    for i, (settings, path) in enumerate(zip(wanted, paths, strict=True), start=1):
        picture = draw(pipeline, settings, f"{i} of {len(wanted)}" if len(wanted) > 1 else "", preview)
        save_picture(picture, path)
        made.append({"file": str(path), **describe(picture)})
        if not quiet:
            say(f"{printable(path)}  seed {picture.settings.seed}  {picture.seconds:.1f} s")
    return made


def draw(
    pipeline: TextToImage, settings: GenerationSettings, label: str, preview: PreviewFile | None = None
) -> Picture:
    """One picture, with a progress bar where somebody watches."""
    from edgegen.engine.pipeline import Progress

    with closing(pipeline.generate(settings)) as parts, StepBar(label, time.monotonic) as bar:
        for part in parts:
            if not isinstance(part, Progress):
                return part
            bar.show(part.step, part.steps)
            if preview:
                preview.show(part.denoised, pipeline.pack.manifest)
    raise AssertionError("the pipeline ended without a picture")


def output_paths(output: Path | None, prompt: str, count: int, force: bool) -> list[Path]:
    """Where the pictures go: `apple.png`, or `apple-1.png` to `apple-<count>.png`.

    Raises:
        BadRequest: the file's name ends in no format we write.
        StorageError: a file is there already (without `force`), or its folder is not.
    """
    path = output or Path(f"{slug(prompt)}.png")
    if path.is_dir():
        path = path / f"{slug(prompt)}.png"
    if path.suffix.lower() not in SUFFIXES:
        message = f"{path} must end in {', '.join(SUFFIXES)}, or be a folder that exists"
        raise BadRequest([Problem("output", str(path), message)])
    if not path.parent.is_dir():
        raise StorageError(f"{path.parent} is no folder: make it first (mkdir -p {path.parent})")
    many = [path.with_name(f"{path.stem}-{i}{path.suffix}") for i in range(1, count + 1)]
    paths = many if count > 1 else [path]
    if not force and (taken := [str(p) for p in paths if p.exists() or p.is_symlink()]):
        raise StorageError(f"{', '.join(taken[:3])} exists already: choose another name, or add --force")
    return paths


def slug(prompt: str) -> str:
    """`A red apple, please!` -> `a-red-apple-please`: letters and digits of any script, and dashes."""
    words = re.findall(r"[^\W_]+", prompt.lower())
    name = "-".join(words)[:SLUG_LENGTH].strip("-")
    while len(name.encode()) > 200:  # a file's name holds 255 bytes
        name = name[:-1]
    return name or "picture"
