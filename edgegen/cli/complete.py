"""What the shell offers when somebody presses Tab; `edgegen completion` teaches it to the shell."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, get_completion_class

from edgegen.errors import EdgegenError

from .output import say

if TYPE_CHECKING:
    from edgegen.settings import Settings

VARIABLE = "_EDGEGEN_COMPLETE"
Offered = list[CompletionItem]
Completer = Callable[[click.Context, click.Parameter, str], Offered]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what teaches SHELL to complete commands, options, packs, configuration keys and samplers.

    \b
    Examples:
      edgegen completion bash | sudo tee /etc/bash_completion.d/edgegen
      echo 'eval "$(edgegen completion bash)"' >> ~/.bashrc
      echo 'eval "$(edgegen completion zsh)"' >> ~/.zshrc
      edgegen completion fish > ~/.config/fish/completions/edgegen.fish
    """
    root = ctx.find_root()
    kind = get_completion_class(shell)
    assert kind is not None
    say(kind(root.command, {}, "edgegen", VARIABLE).source())


def packs(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Offered:
    """Installed packs, with what they are."""
    from edgegen.config.files import pack_dirs
    from edgegen.pack import scan_packs

    try:
        found = scan_packs(pack_dirs(settings_of(ctx)))[0]
    except (EdgegenError, OSError):
        return []
    return [CompletionItem(p.name, help=p.manifest.title) for p in found if p.name.startswith(incomplete)]


def loras(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Offered:
    """Names in the LoRA folder; a path is completed as any file is."""
    from edgegen.config.files import lora_dir

    if incomplete.startswith((".", "/", "~")):
        return [CompletionItem(incomplete, type="file")]
    try:
        return starting(lora_names(lora_dir(settings_of(ctx))), incomplete)
    except (EdgegenError, OSError):
        return []


def lora_names(folder: Path) -> list[str]:
    """What `--lora` and jobs call the files of the LoRA folder and of folders in it; none that hide."""
    steps = (path.relative_to(folder) for path in folder.rglob("*.safetensors") if path.is_file())
    shown = (p for p in steps if not any(part.startswith(".") for part in p.parts))
    return sorted(path.with_name(path.name.removesuffix(".safetensors")).as_posix() for path in shown)


def config_keys(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> Offered:
    """`mqtt.port`; a list's keys with the number of its first table."""
    from .reference import entries

    keys = [(f"{e.section}.0.{e.name}" if e.listed else e.key, e.meaning) for e in entries()]
    return [CompletionItem(key, help=meaning) for key, meaning in keys if key.startswith(incomplete)]


def config_words(ctx: click.Context, param: click.Parameter, incomplete: str) -> Offered:
    """KEY, then what it may be, as far as that is a choice."""
    given: list[str] = list(ctx.params.get(param.name or "") or [])
    if len(given) == 1 and "=" not in given[0]:
        return choices_of_key(ctx, param, given[0], incomplete)
    return config_keys(ctx, param, incomplete)


def choices_of_key(ctx: click.Context, param: click.Parameter, key: str, incomplete: str) -> Offered:
    from edgegen.config.help import choices_of, field_of

    if key == "engine.pack":
        return packs(ctx, param, incomplete)
    field = field_of(tuple(key.split(".")))
    words = ["true", "false"] if field and field.annotation is bool else choices_of(field)
    return starting(words, incomplete)


def sections_and_keys(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> Offered:
    """What `config explain` takes."""
    from .reference import entries

    names = {name for entry in entries() for name in (entry.section, entry.key)}
    return starting(sorted(names), incomplete)


def samplers(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> Offered:
    from edgegen.settings import SAMPLERS

    return starting(SAMPLERS, incomplete)


def schedules(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> Offered:
    from edgegen.settings import SCHEDULES

    return starting(SCHEDULES, incomplete)


def active_jobs(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Offered:
    """Jobs that run or wait, with the beginning of their prompt."""
    from .access import JobAccess, active_states
    from .output import shorten

    try:
        with JobAccess(settings_of(ctx)) as access:
            jobs = access.jobs(*active_states(), limit=100)
    except EdgegenError:
        return []
    return [
        CompletionItem(j.id, help=shorten(j.request.prompt, 40)) for j in jobs if j.id.startswith(incomplete)
    ]


def starting(words: Iterable[str], incomplete: str) -> Offered:
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]


def settings_of(ctx: click.Context) -> Settings:
    """By the --config of the line that is being typed; whatever is right of it."""
    from edgegen.config.files import salvaged_settings

    named = ctx.find_root().params.get("config_file") or os.environ.get("EDGEGEN_CONFIG")
    return salvaged_settings(Path(named) if named else None)
