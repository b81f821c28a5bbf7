"""`python -m quantize.pocket`: make the built-in pack's model from nothing but the npm registry and a CPU."""

from __future__ import annotations

import os
from pathlib import Path

import click
import torch


def _default_work() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "edgegen" / "pocket"


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
    python -m quantize.pocket denoiser --minutes 240
    python -m quantize.pocket denoiser --minutes 20 --cool-down
    python -m quantize WORK/checkpoint -o edgegen/packs/pocket --precision int8
    """
    torch.set_num_threads(threads)
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
    "--decoder-only", is_flag=True, help="Keep the encoder, so that latents already made stay valid."
)
@click.option(
    "--crop", type=click.IntRange(64, 256), default=96, show_default=True, help="Side of the crops in pixels."
)
@click.option("--lr", type=float, default=1.5e-3, show_default=True)
@click.pass_obj
def autoencoder(work: Path, minutes: float, decoder_only: bool, crop: int, lr: float) -> None:
    """Train the autoencoder for a time budget."""
    from .autoencoder import train_autoencoder

    train_autoencoder(work, minutes, crop=crop, decoder_only=decoder_only, lr=lr)


@main.command()
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=240.0, show_default=True)
@click.option("--batch", type=click.IntRange(1, 1024), default=16, show_default=True)
@click.option("--lr", type=float, default=1e-3, show_default=True)
@click.option(
    "--cool-down", is_flag=True, help="Let the learning rate fall to zero: the last run before a release."
)
@click.option("--everything", is_flag=True, help="Learn all emoji, not only the core ones.")
@click.pass_obj
def denoiser(work: Path, minutes: float, batch: int, lr: float, cool_down: bool, everything: bool) -> None:
    """Train text encoder and UNet for a time budget, from the last checkpoint if there is one."""
    from .denoiser import train_denoiser

    train_denoiser(work, minutes, batch=batch, lr=lr, cool_down=cool_down, everything=everything)


if __name__ == "__main__":
    main()
