"""`edgegen workflow`: ComfyUI workflows, checked and run in this process."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgegen.errors import BadRequest, Problem, StorageError

from .app import App, pass_app
from .output import note, printable, say, say_json
from .progress import StepBar

if TYPE_CHECKING:
    import numpy as np

    from edgegen.engine.executor import NodePictures
    from edgegen.engine.workbench import Workbench
    from edgegen.workflow import CheckedWorkflow, Workflow

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")
BAD = 2
PLACEHOLDER = re.compile(r"%([a-z][a-z0-9_]{0,31})%")


@click.group()
def workflow() -> None:
    """Check and run ComfyUI workflows, saved there with "Save (API Format)".

    \b
    Examples:
      edgegen workflow check portrait.json
      edgegen workflow run portrait.json -o portrait.png
    """


sets_option = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="WHAT=VALUE",
    help="NODE.INPUT=VALUE sets an input, %name%=TEXT fills in that placeholder; may be repeated.",
)


@workflow.command()
@click.argument("file", type=click.Path(path_type=Path))
@sets_option
@click.option(
    "--measure", is_flag=True, help="Load the packs and run each graph, to tell seconds and memory now."
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON, errors as ComfyUI does.")
@pass_app
def check(app: App, file: Path, sets: tuple[str, ...], measure: bool, as_json: bool) -> int:
    """Say whether the workflow in FILE can run here, without loading any weights; - reads stdin.

    Every problem is told at once: node, class, input, value, what is allowed. Exit code 2: it cannot. If it
    can: the memory it needs, and the seconds, from how fast earlier jobs of this device were.

    \b
    Examples:
      edgegen workflow check portrait.json
      edgegen workflow check portrait.json --set 5.width=256 --json
    """
    from edgegen.workflow import BadWorkflow

    bench = open_bench(app)
    try:
        checked = checked_workflow(bench, file, sets)
    except BadWorkflow as err:
        if not as_json:
            raise
        say_json({"ok": False, **err.response()})
        return BAD
    with closing(bench):
        verdict = {**verdict_on(bench, checked), **cost_of(app, bench, checked, measure)}
    if as_json:
        say_json(verdict)
    else:
        tell(verdict)
    return 0


@workflow.command()
@click.argument("file", type=click.Path(path_type=Path))
@sets_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path(),
    metavar="FILE",
    help="File (.png, .webp, .jpg) or folder. Default: named as the workflow says, in this folder.",
)
@click.option("--force", is_flag=True, help="Overwrite a file that exists.")
@click.option("--provider", metavar="NAME", help="cpu, openvino or auto. Default: engine.provider.")
@click.option("--threads", type=click.IntRange(0, 256), metavar="N", help="0: one per usable core.")
@click.option("--queue", "queued", is_flag=True, help="Put it into the daemon's queue, print the job's id.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document with every picture.")
@pass_app
def run(app: App, file: Path, sets: tuple[str, ...], output: Path, **options: Any) -> None:
    """Run the workflow in FILE here and now; - reads stdin.

    Prints each picture's file. A PNG remembers the workflow as it ran: ComfyUI opens it again. With --queue
    the daemon runs it, as if it had come over MQTT; the last picture that it saves is the job's.

    \b
    Examples:
      edgegen workflow run portrait.json -o portrait.png
      edgegen workflow run portrait.json --set 3.seed=7 --set "%subject%=a red apple"
      edgegen workflow run portrait.json --queue
    """
    from edgegen.jobs.workflowjob import words_in

    from .generate import check_prompts

    bench = open_bench(app, options["provider"], options["threads"])
    checked = checked_workflow(bench, file, sets)
    if options["queued"]:
        submit(app, checked.written, options["as_json"])
        return
    check_prompts(app, *words_in(checked.written))
    namer = Namer(output, options["force"])
    with closing(bench):
        saved = run_all(bench, checked, namer, quiet=options["as_json"])
    if options["as_json"]:
        say_json({"pictures": saved})


def open_bench(app: App, provider: str | None = None, threads: int | None = None) -> Workbench:
    """The packs, mapping and folders of the configuration."""
    from edgegen.jobs.workflowrenderer import open_bench as bench_of

    return bench_of(app.settings, provider, threads)


def submit(app: App, written: Workflow, as_json: bool) -> None:
    """Make a job of a workflow that is checked and filled in."""
    import json

    from edgegen.jobs.workflowjob import workflow_text

    from .access import JobAccess
    from .jobs import tell_queued
    from .request import checked_request

    request = checked_request({"workflow": json.loads(workflow_text(written))}, app.settings.limits)
    with JobAccess(app.settings) as access:
        tell_queued(access, access.submit(request), as_json)


@workflow.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_app
def list_stored(app: App, as_json: bool) -> None:
    """List the stored workflows, which a job may name: {"workflow": "NAME"}.

    They are files NAME.json in workflow.folder.

    \b
    Examples:
      edgegen workflow list
    """
    from edgegen.config.files import workflow_dir
    from edgegen.jobs.workflowjob import WorkflowFolder

    folder = WorkflowFolder(workflow_dir(app.settings))
    if as_json:
        say_json({"folder": str(folder.folder), "workflows": folder.names()})
        return
    for name in folder.names():
        say(name)
    if not folder.names():
        note(f"no workflows in {folder.folder}")


def checked_workflow(bench: Workbench, file: Path, sets: tuple[str, ...]) -> CheckedWorkflow:
    """Read, fill in and check. Raises BadWorkflow with every problem, BadRequest for a wrong --set."""
    from edgegen.engine.nodes import check_for

    return check_for(bench, filled_workflow(read_file(file), sets))


def read_file(file: Path) -> bytes:
    """The file's bytes, or stdin's for `-`; not more than are worth parsing."""
    from edgegen.workflow.parse import MAX_BYTES

    try:
        if str(file) == "-":
            return sys.stdin.buffer.read(MAX_BYTES + 1)
        with file.open("rb") as opened:
            return opened.read(MAX_BYTES + 1)
    except OSError as err:
        raise BadRequest([Problem("file", str(file), f"cannot read {file}: {err.strerror}")]) from None


def filled_workflow(raw: bytes, sets: tuple[str, ...]) -> Workflow:
    """The workflow with what --set says. Raises BadWorkflow, BadRequest."""
    from edgegen.workflow import fill_placeholders, override_inputs, parse_workflow

    texts: dict[str, str] = {}
    inputs: dict[tuple[str, str], Any] = {}
    for entry in sets:
        what, equals, value = entry.partition("=")
        node, dot, name = what.rpartition(".")
        if equals and (found := PLACEHOLDER.fullmatch(what)):
            texts[found[1]] = value
        elif equals and dot and node and name:
            inputs[node, name] = value
        else:
            message = f"{entry} is neither NODE.INPUT=VALUE nor %name%=TEXT"
            raise BadRequest([Problem("set", entry, message)])
    return fill_placeholders(override_inputs(parse_workflow(raw), inputs), texts)


def verdict_on(bench: Workbench, checked: CheckedWorkflow) -> dict[str, Any]:
    """What will run, on which packs, and the most memory any of them is known to need."""
    from edgegen.engine.nodes import packs_of, remarks_on

    packs = packs_of(bench, checked)
    classes = [node.class_type for node in checked.nodes.values()]
    return {
        "ok": True,
        "nodes": {name: classes.count(name) for name in sorted(set(classes))},
        "unused": checked.unused,
        "checkpoints": {name: pack.name for name, pack in packs.items()},
        "remarks": remarks_on(checked),
        "node_errors": {},
    }


def cost_of(app: App, bench: Workbench, checked: CheckedWorkflow, measure: bool) -> dict[str, Any]:
    """Seconds and memory on this device; None is unknown, and then a note says why."""
    from edgegen.engine import estimate
    from edgegen.engine.nodes import packs_of

    runs = estimate.graph_runs(bench, checked)
    pace = known_pace(app)
    if measure and runs is not None:
        pace |= estimate.measure(bench, runs)
    seconds = estimate.estimate_seconds(runs, bench.provider_name(), pace)
    loras = estimate.loras_of(bench, checked)
    memory_mb, mode = estimate.peak_memory(bench, packs_of(bench, checked), runs, loras)
    if measure and memory_mb is not None:
        memory_mb, mode = max(memory_mb, peak_of_process_mb()), f"{mode}; measured where that was more"
    return {
        "seconds": None if seconds.seconds is None else round(seconds.seconds, 2),
        "seconds_note": seconds.note,
        "peak_memory_mb": memory_mb,
        "memory_note": mode,
    }


def peak_of_process_mb() -> int:
    """The most memory this process had so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000  # of KiB, rather too much


def known_pace(app: App) -> dict[str, float]:
    """How fast this device was, as its jobs' database remembers it; looking never makes that file."""
    from edgegen.config.files import database_path
    from edgegen.jobs.database import Database
    from edgegen.jobs.pace import read_pace

    path = database_path(app.settings.node)
    if not path.exists():
        return {}
    with closing(Database(path)) as database:
        return read_pace(database)


def tell(verdict: dict[str, Any]) -> None:
    counted = ", ".join(f"{name} ({n})" if n > 1 else name for name, n in verdict["nodes"].items())
    say(f"ok: it can run here: {counted}")
    for checkpoint, pack in verdict["checkpoints"].items():
        say(f"checkpoint {printable(checkpoint)}: pack {pack}")
    for remark in verdict["remarks"]:
        say(f"note: {printable(remark)}")
    if verdict["seconds"] is None:
        say(f"seconds: unknown; {printable(verdict['seconds_note'])}")
    else:
        say(f"seconds: about {verdict['seconds']:.3g}, {verdict['seconds_note']}")
    if verdict["peak_memory_mb"]:
        say(f"memory: about {verdict['peak_memory_mb']} MB, {verdict['memory_note']}")
    else:
        say(f"memory: {verdict['memory_note']}")
    if verdict["unused"]:
        say("not run, for no output needs them: " + printable(", ".join(verdict["unused"])))


def run_all(bench: Workbench, checked: CheckedWorkflow, namer: Namer, quiet: bool) -> list[dict[str, Any]]:
    """Run to the end, saving each picture as it comes."""
    from edgegen.engine.executor import Executor, NodePictures
    from edgegen.engine.nodes import packs_of

    began = time.monotonic()
    packs = sorted({pack.name for pack in packs_of(bench, checked).values()})
    saved: list[dict[str, Any]] = []
    with closing(Executor(bench).run(checked)) as work, StepBar("", time.monotonic) as bar:
        for item in work:
            if not isinstance(item, NodePictures):
                bar.show(item.step, item.steps)
                continue
            told = {"packs": packs, "seconds": round(time.monotonic() - began, 3)}
            for picture in keep(item, checked, namer, told):
                saved.append(picture)
                if not quiet:
                    say(f"{printable(picture['file'])}  node {item.node_id}  {told['seconds']:.1f} s")
    return saved


def keep(
    item: NodePictures, checked: CheckedWorkflow, namer: Namer, told: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Write an output node's pictures; previews too, for here nobody else shows them."""
    for pixels in item.shown.pixels:
        path = namer.next(item.shown.prefix or f"preview_{item.node_id}")
        save(pixels, checked.written, told, path)
        height, width = pixels.shape[:2]
        yield {"file": str(path), "node": item.node_id, "width": width, "height": height, **told}


def save(pixels: np.ndarray, written: Workflow, told: dict[str, Any], path: Path) -> None:
    from edgegen.engine.metadata import save_workflow_picture

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise StorageError(f"cannot write {path}: {err.strerror or err}") from err
    save_workflow_picture(pixels, written, told, path)


class Namer:
    """File names: the one that was given, numbered from the second picture on, or PREFIX_00001_.png and so on
    in a folder.

    Raises:
        StorageError: that file exists, or its suffix names no format.
    """

    def __init__(self, output: Path, force: bool):
        self._output = output
        self._force = force
        self._is_folder = output.is_dir() or not output.suffix
        self._count = 0
        if not self._is_folder:
            self._check(output)

    def next(self, prefix: str) -> Path:
        """A path that no other picture has."""
        self._count += 1
        if not self._is_folder:
            numbered = self._output.with_stem(f"{self._output.stem}-{self._count}")
            path = self._output if self._count == 1 else numbered
            self._check(path)
            return path
        safe = "/".join(re.sub(r"[^\w .%-]", "_", part) for part in prefix.replace("\\", "/").split("/"))
        number = 1
        while (path := self._output / f"{safe}_{number:05}_.png").exists():
            number += 1
        return path

    def _check(self, path: Path) -> None:
        if path.suffix.lower() not in SUFFIXES:
            raise StorageError(f"{path}: the file's name must end in {', '.join(SUFFIXES)}")
        if path.exists() and not self._force:
            raise StorageError(f"{path} exists; --force overwrites it")
