"""`python -m quantize.pocket`: make the built-in pack's model from nothing but the npm registry and a CPU."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click


def _default_work() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "edgegen" / "pocket"


_things = click.option(
    "--things",
    type=click.Choice(("first", "core", "all")),
    default="first",
    show_default=True,
    help="What to teach or to ask for: some 150 icons, 532 short names, or all 1,188.",
)


@click.group()
@click.option(
    "--work", type=click.Path(path_type=Path), default=_default_work, help="Folder for data and checkpoints."
)
@click.option("--threads", type=click.IntRange(1, 256), default=os.cpu_count(), help="CPU threads.")
@click.pass_context
def main(context: click.Context, work: Path, threads: int) -> None:
    """Train `pocket`, the built-in pack's model. Every command may be stopped and started again.

    \b
    python -m quantize.pocket data
    python -m quantize.pocket autoencoder --minutes 30
    python -m quantize.pocket words --minutes 5
    python -m quantize.pocket denoiser --minutes 100
    python -m quantize.pocket denoiser --minutes 20 --cool-down
    python -m quantize.pocket polish --minutes 8
    python -m quantize WORK/checkpoint -o edgegen/packs/pocket --precision int8
    python -m quantize.pocket judge edgegen/packs/pocket
    python -m quantize.pocket unseen edgegen/packs/pocket -o docs/pocket-unseen.png
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    context.obj = work


@main.command()
@click.pass_obj
def data(work: Path) -> None:
    """Fetch and verify the pictures (16 MB, from the npm registry)."""
    from .data import emoji_list, load_rgba

    click.echo(f"{len(load_rgba(work, emoji_list()))} pictures in {work}")


@main.command()
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=30.0, show_default=True)
@click.option(
    "--crop", type=click.IntRange(64, 256), default=96, show_default=True, help="Side of the crops in pixels."
)
@click.option("--lr", type=float, default=1.5e-3, show_default=True)
@click.pass_obj
def autoencoder(work: Path, minutes: float, crop: int, lr: float) -> None:
    """Train the autoencoder for a time budget."""
    from .autoencoder import train_autoencoder

    train_autoencoder(work, minutes, crop=crop, lr=lr)


@main.command()
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=5.0, show_default=True)
@click.pass_obj
def words(work: Path, minutes: float) -> None:
    """Train the tokenizer and the text encoder for a time budget."""
    from .reading import train_text_encoder

    train_text_encoder(work, minutes)


@main.command()
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=240.0, show_default=True)
@click.option("--batch", type=click.IntRange(1, 1024), default=16, show_default=True)
@click.option("--lr", type=float, default=1e-3, show_default=True)
@click.option(
    "--cool-down", is_flag=True, help="Let the learning rate fall to zero: the last run before a release."
)
@_things
@click.pass_obj
def denoiser(work: Path, minutes: float, batch: int, lr: float, cool_down: bool, things: str) -> None:
    """Train the UNet for a time budget, from the last checkpoint if there is one."""
    from .denoiser import train_denoiser

    train_denoiser(work, minutes, batch, lr, cool_down=cool_down, things=things)


@main.command()
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=8.0, show_default=True)
@_things
@click.pass_obj
def polish(work: Path, minutes: float, things: str) -> None:
    """Train the decoder on latents that the denoiser makes, when that is done."""
    from .polish import polish_decoder

    polish_decoder(work, minutes, things)


@main.command()
@click.argument("pack", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--captions", type=click.IntRange(1, 500), default=100, show_default=True)
@click.option(
    "--sheet", type=click.Path(dir_okay=False, path_type=Path), help="Also draw what it made, worst first."
)
@click.option("--json", "as_json", is_flag=True, help="Figures and every verdict as JSON.")
@_things
@click.pass_obj
def judge(work: Path, pack: Path, captions: int, sheet: Path | None, as_json: bool, things: str) -> None:
    """Measure how well a pack obeys captions it was trained on, with seeds it never saw.

    The picture is compared with every training picture laid on the asked background, as 32x32 thumbnails.
    """
    from edgegen.pack import Pack

    from ..contact import contact_sheet
    from ..runner import Runner
    from .data import emoji_list, load_rgba, taught
    from .obedience import judge as judge_pictures
    from .obedience import summary

    emojis = emoji_list()
    course = taught(emojis, things)
    rgba = load_rgba(work, emojis)[course]
    runner = Runner.of_pack(Pack.open(pack))
    verdicts, pictures = judge_pictures(runner.picture, rgba, [emojis[i] for i in course], captions)
    figures = summary(verdicts)
    if sheet:
        order = sorted(range(len(verdicts)), key=lambda k: -verdicts[k].rank)
        lines = [f"{v.caption}\nrank {v.rank}, {v.nearest}, dE {v.colour_error:.1f}" for v in verdicts]
        contact_sheet([pictures[k] for k in order], [lines[k] for k in order], 10, 160).save(sheet)
    if as_json:
        click.echo(json.dumps({**figures, "verdicts": [vars(v) for v in verdicts]}, indent=1))
        return
    for v in verdicts:
        if v.rank > 1 or v.colour_error > 12:
            click.echo(
                f"{v.caption}: rank {v.rank}, nearest {v.nearest}, background off by {v.colour_error:.1f}"
            )
    click.echo("of 100 captions: " + ", ".join(f"{name} {value:g}" for name, value in figures.items()))


@main.command()
@click.argument("pack", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--seed", type=int, default=1, show_default=True)
def unseen(pack: Path, output: Path, seed: int) -> None:
    """Draw 24 prompts it never saw as such on one sheet, first try, no retouching."""
    from importlib import resources

    from edgegen.pack import Pack

    from ..contact import contact_sheet
    from ..runner import Runner

    prompts = (resources.files(__package__) / "unseen.txt").read_text("utf-8").splitlines()
    runner = Runner.of_pack(Pack.open(pack))
    contact_sheet([runner.picture(p, seed) for p in prompts], prompts, columns=6, cell=256).save(output)
    click.echo(str(output))


if __name__ == "__main__":
    main()
