"""`edgegen support-bundle`: one file that tells a stranger what is wrong, and nothing that is secret."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from edgegen.errors import StorageError

from .app import App, pass_app
from .output import megabytes, note, say
from .redact import Redactor

MAX_PART_BYTES = 1_000_000
PROMPT = "[prompt]"
README = """\
Made by `edgegen support-bundle` for whoever helps with this device. Text only; read it before you send it.
Removed: passwords, keys, tokens and user:password@ in addresses. Left out: pictures{prompts}.
A part that could not be read says why. Parts are cut at {limit} bytes; of a log the end is kept.
"""


@click.command("support-bundle")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Default: edgegen-support-NAME-TIME.tar.gz in this folder. - writes to stdout.",
)
@click.option("--with-prompts", is_flag=True, help="Leave the words of jobs in.")
@click.option("--force", is_flag=True, help="Overwrite a file that exists.")
@pass_app
def support_bundle(app: App, output: Path | None, with_prompts: bool, force: bool) -> None:
    """Collect what a stranger needs to help: one small .tar.gz of text, without secrets.

    What doctor says, the settings with their origins, versions, units, the journal's last lines, the last
    failures, how much lies where. Passwords, keys and tokens are removed wherever they turn up; pictures
    never go in, prompts only with --with-prompts. As root, or in the groups edgegen and
    systemd-journal, it can read more.

    \b
    Examples:
      edgegen support-bundle
      sudo edgegen support-bundle -o /tmp/box.tar.gz
      ssh box edgegen support-bundle -o - > box.tar.gz
    """
    data = build(collect(app, with_prompts))
    if str(output) == "-":
        sys.stdout.buffer.write(data)
        return
    path = output or Path(f"edgegen-support-{app.salvaged.node.name}-{stamp()}.tar.gz")
    write_private(path, data, force)
    say(f"{path}: {megabytes(len(data))} MB; read it before you send it: tar -xOzf {path} | less")


def stamp() -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())


def collect(app: App, with_prompts: bool) -> dict[str, str]:
    """Every part, clean and bounded."""
    from . import bundleparts
    from .machine import Roots

    redactor = Redactor(bundleparts.known_secrets(app, os.environ))
    prompts: set[str] = set() if with_prompts else bundleparts.known_prompts(app.salvaged)
    left_out = "" if with_prompts else ", the words of jobs"
    texts = {"README.txt": README.format(prompts=left_out, limit=MAX_PART_BYTES)}
    for name, read in bundleparts.parts(app, Roots(), with_prompts).items():
        text = redactor.clean(attempted(read))
        for prompt in sorted(prompts, key=len, reverse=True):
            text = text.replace(prompt, PROMPT)
        texts[name] = bounded(text)
    return texts


def attempted(read: Callable[[], str]) -> str:
    """What could not be read is worth knowing, too."""
    try:
        return read()
    except Exception as err:  # noqa: BLE001 - a bundle is for devices on which things fail
        return f"this part could not be made: {type(err).__name__}: {err}\n"


def bounded(text: str) -> str:
    """The end of it, in whole characters."""
    data = text.encode("utf-8", "replace")
    if len(data) <= MAX_PART_BYTES:
        return data.decode()
    return "[the beginning is cut off]\n" + data[-MAX_PART_BYTES:].decode("utf-8", "ignore")


def build(texts: dict[str, str]) -> bytes:
    """A .tar.gz with one folder, for its owner's eyes."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, text in texts.items():
            entry = tarfile.TarInfo(f"edgegen-support/{name}")
            data = text.encode()
            entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def write_private(path: Path, data: bytes, force: bool) -> None:
    """Raises StorageError."""
    if path.exists() and not force:
        raise StorageError(f"{path} exists: choose another -o, or --force")
    from edgegen.config.store import write_atomically

    write_atomically(path.absolute(), data, mode=0o600)
    if os.geteuid() == 0:
        note("made by root: chown it before somebody else can send it")
