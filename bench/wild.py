"""Workflows found in the wild: which of them this version runs, and why it refuses the others.

    python bench/wild.py FILES STANDINS [--verdicts FILE] > docs/WILD.md

FILES is a folder with the workflows that `wild_sources.json` names (they are others' and not part of this
project: fetch them from the addresses there), STANDINS one that `wild_packs.py` made. Every workflow gets a
device where each file that it names exists, as far as a pack can stand for it, and goes through `edgegen
workflow check` and, when that says ok, `edgegen workflow run`.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from click.testing import CliRunner, Result
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edgegen.cli import main as cli  # noqa: E402

SOURCES = Path(__file__).with_name("wild_sources.json")
# names of checkpoints that no pack can stand for: other kinds of models
OTHERS = re.compile(r"flux|sd3|hunyuan|ace[_-]?step|wan|ltx|audio|svd|qwen|sam3|cascade", re.IGNORECASE)
XL = re.compile(r"xl|pony|illustrious|juggernaut|animagine|noob", re.IGNORECASE)
PARTS = {"control_net_name": "-net", "ipadapter_file": "-basic"}
SHRUNK = ("EmptyLatentImage", "KSampler", "KSamplerAdvanced")
MOST_PIXELS, MOST_STEPS = 512, 6
PICTURES = ("LoadImage", "LoadImageMask")
SAMPLES = {
    "listing": "every eighth repository that has a `workflow_api.json`",
    "kind": "one or two for each kind",
    "seen": "read while looking for the others",
    "known": "well-known examples",
    "package": "all API-format files of published packages",
}


@dataclass
class Verdict:
    """What became of one workflow."""

    source: dict[str, Any]
    classes: list[str]
    is_diffusion: bool = False
    text: str = ""
    is_ok: bool = False
    errors: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    failure: str = ""

    @property
    def missing(self) -> list[str]:
        """Classes of nodes that are not known, each once."""
        found = [e["class_type"] for e in self.errors if e["type"] == "missing_node_type"]
        return list(dict.fromkeys(found))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path)
    parser.add_argument("standins", type=Path)
    parser.add_argument("--verdicts", type=Path, help="write what the command printed of each there")
    args = parser.parse_args()
    sources = json.loads(SOURCES.read_text("utf-8"))
    found = [judge(source, args.files, args.standins) for source in sources]
    if args.verdicts:
        args.verdicts.write_text("\n".join(printed(verdict) for verdict in found), "utf-8")
    print("\n".join(page(found)))


def judge(source: dict[str, Any], files: Path, standins: Path) -> Verdict:
    """Check one workflow on a device of its own, and run it if that says ok."""
    file = files / source["file"]
    nodes = nodes_of(file)
    verdict = Verdict(source, [node["class_type"] for node in nodes], draws_with_ours(nodes))
    with tempfile.TemporaryDirectory() as folder:
        config = write_device(Path(folder), nodes_of(file), standins)
        plain = edgegen(config, "check", file)
        verdict.text = (plain.stdout + plain.stderr).replace(folder, "DATA").replace(str(standins), "PACKS")
        verdict.is_ok = plain.exit_code == 0
        verdict.errors = list(errors_in(json.loads(edgegen(config, "check", file, "--json").stdout)))
        if verdict.is_ok:
            run = edgegen(config, "run", file, "-o", folder, "--json", *smaller(file))
            verdict.failure = "" if run.exit_code == 0 else (run.stderr.strip() or str(run.exception))
            shown = json.loads(run.stdout)["pictures"] if run.exit_code == 0 else []
            verdict.pictures = [f"{picture['width']}x{picture['height']}" for picture in shown]
    print(f"{file.name}: {'ok' if verdict.is_ok else 'refused'} {verdict.failure}", file=sys.stderr)
    return verdict


def draws_with_ours(nodes: list[dict[str, Any]]) -> bool:
    """Whether a checkpoint is loaded that may be Stable Diffusion 1 or XL, going by its name."""
    names = [str(node["inputs"]["ckpt_name"]) for node in nodes if "ckpt_name" in node.get("inputs", {})]
    return bool(names) and not any(OTHERS.search(name) for name in names)


def smaller(file: Path) -> list[str]:
    """What makes large pictures 512 pixels a side, and long runs short: the stand-ins are slow."""
    data = json.loads(file.read_text("utf-8-sig"))
    nodes = data["prompt"] if isinstance(data.get("prompt"), dict) else data
    most = {"width": MOST_PIXELS, "height": MOST_PIXELS, "steps": MOST_STEPS}
    return [
        f"--set={node_id}.{name}={limit}"
        for node_id, node in nodes.items()
        for name, limit in most.items()
        if node["class_type"] in SHRUNK
        and isinstance(value := node["inputs"].get(name), int)
        and value > limit
    ]


def nodes_of(file: Path) -> list[dict[str, Any]]:
    """What looks like nodes in a workflow's file."""
    data = json.loads(file.read_text("utf-8-sig"))
    data = data["prompt"] if isinstance(data.get("prompt"), dict) else data
    return [node for node in data.values() if isinstance(node, dict) and "class_type" in node]


def write_device(folder: Path, nodes: list[dict[str, Any]], standins: Path) -> Path:
    """A device's configuration; every file that the nodes name is there."""
    names = [str(node["inputs"]["ckpt_name"]) for node in nodes if "ckpt_name" in node.get("inputs", {})]
    family = "sdxl" if any(XL.search(name) for name in names) else "sd1"
    mapping = {}
    for node in nodes:
        for name, value in node.get("inputs", {}).items():
            if isinstance(value, str) and value:
                mapping |= stand_in(folder, node["class_type"], name, value, family, standins)
    config = folder / "config.toml"
    pairs = [f"{name}={pack}" for name, pack in mapping.items() if "=" not in name]
    config.write_text(
        f'[node]\ndata_dir = "{folder}"\nrun_dir = "{folder}/run"\n[engine]\npack = "sd1"\n'
        f'pack_dirs = ["{standins}/packs"]\nprovider = "cpu"\nthreads = 1\n[workflow]\n'
        f"checkpoints = {json.dumps(pairs, ensure_ascii=False)}\n",
        "utf-8",
    )
    return config


def stand_in(folder: Path, kind: str, name: str, value: str, family: str, standins: Path) -> dict[str, str]:
    """Put a file there, or say which pack a name stands for."""
    if kind in PICTURES and name == "image":
        write_picture(folder / "input", value)
    elif name == "lora_name":
        copy_within(standins / f"{family}.safetensors", folder / "loras", value)
    elif name in ("ckpt_name", "vae_name") and not OTHERS.search(value):
        return {value: family}
    elif name in PARTS:
        return {value: family + PARTS[name]}
    elif kind == "CLIPVisionLoader":
        return {value: "eyes"}
    elif kind == "UpscaleModelLoader":
        return {value: "upscaler"}
    return {}


def write_picture(folder: Path, name: str) -> None:
    path = within(folder, name.removesuffix(" [input]"))
    if path is None:
        return
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8)
    picture = Image.fromarray(pixels).resize((512, 512), Image.Resampling.BICUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, "PNG")  # with a mask, whatever the suffix


def copy_within(file: Path, folder: Path, name: str) -> None:
    path = within(folder, name)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, path)


def within(folder: Path, name: str) -> Path | None:
    """The path of a name that does not lead out of the folder."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return folder.joinpath(*parts) if parts and ".." not in parts and parts[0] != "/" else None


def edgegen(config: Path, what: str, file: Path, *more: str) -> Result:
    """The command, in this process: starting Python two hundred times would be most of the work."""
    args = ["--config", str(config), "workflow", what, str(file), *more]
    return CliRunner().invoke(cli, args)


def errors_in(told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every error of an answer in ComfyUI's shape, with its node's class."""
    if told.get("error") and told["error"]["type"] != "prompt_outputs_failed_validation":
        yield {**told["error"], "class_type": ""}
    for node in told["node_errors"].values():
        yield from ({**error, "class_type": node["class_type"]} for error in node["errors"])


def printed(verdict: Verdict) -> str:
    source = verdict.source
    ran = f"ran: pictures {', '.join(verdict.pictures)}\n" if verdict.pictures else ""
    failed = f"failed while it ran: {verdict.failure}\n" if verdict.failure else ""
    return f"## {address(source)} {source['path']}\n{verdict.text}{ran}{failed}"


def address(source: dict[str, Any]) -> str:
    return str(source.get("repo") or f"{source['registry']} {source['package']} {source['version']}")


def page(found: list[Verdict]) -> Iterator[str]:
    """The Markdown page."""
    ran = [verdict for verdict in found if verdict.pictures]
    places, ours = {address(v.source) for v in found}, [v for v in found if v.is_diffusion]
    yield from HEAD.format(
        n=len(found),
        places=len(places),
        ran=len(ran),
        ours=len(ours),
        ours_ran=sum(bool(v.pictures) for v in ours),
    ).split("\n")
    yield from ("| from | path | nodes | verdict | why |", "|---|---|---|---|---|")
    for verdict in sorted(found, key=lambda v: list(SAMPLES).index(v.source["sample"])):
        yield row(verdict)
    yield NOTE
    yield from ("## What is missing", "", "| class | workflows | of these, it alone |", "|---|---|---|")
    counts = Counter(name for verdict in found for name in verdict.missing)
    alone = Counter(verdict.missing[0] for verdict in found if is_alone(verdict))
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if count > 1 or alone[name]:
            yield f"| {name} | {count} | {alone[name] or ''} |"
    others = sum(1 for count in counts.values() if count == 1)
    yield f"\n{others} more classes are missing in one workflow each."


def is_alone(verdict: Verdict) -> bool:
    """Whether one unknown class is all that is wrong."""
    kinds = {error["type"] for error in verdict.errors}
    return len(verdict.missing) == 1 and kinds == {"missing_node_type"}


def row(verdict: Verdict) -> str:
    source = verdict.source
    commit = f" `{source['commit'][:10]}`" if "commit" in source else ""
    state = "runs" if verdict.pictures else "fails" if verdict.is_ok else "refused"
    path = source["path"].replace("|", "\\|")
    return f"| {address(source)}{commit} | {path} | {len(verdict.classes)} | {state} | {why(verdict)} |"


def why(verdict: Verdict) -> str:
    """The reasons in a few words."""
    if verdict.failure or verdict.is_ok:
        return verdict.failure.replace("|", "\\|") or ", ".join(dict.fromkeys(verdict.pictures))
    parts = [f"unknown {', '.join(verdict.missing)}"] if verdict.missing else []
    others = [error for error in verdict.errors if error["type"] != "missing_node_type"]
    for error in others[: 3 if not parts else 1]:
        where = f"{error['class_type']} " if error["class_type"] else ""
        parts.append(f"{where}{error['details'][:110]}")
    if len(others) > (3 if not verdict.missing else 1):
        parts.append("and more")
    return "; ".join(parts).replace("|", "\\|").replace("\n", " ")


HEAD = """# Workflows found in the wild

{n} workflows in ComfyUI's API format from {places} places, none of them ours, and what
`edgegen workflow check` says of each. {ran} also ran to their pictures, and none failed on the way:
{ours_ran} of the {ours} that load a checkpoint of Stable Diffusion, and what needs no checkpoint. Made by
`bench/wild.py`; the addresses are in `bench/wild_sources.json`, the verdicts as the command printed them in
[bench/wild-verdicts.txt](bench/wild-verdicts.txt). The workflows are their authors' and not copied here.

How they were chosen, before anything was run: every eighth of the first hundred repositories (by name) that
a public index lists with a file `workflow_api.json`, if it has at most 16,000 characters; one or two,
mostly the first by name, with `workflows/KIND.json` in API format for img2img, inpaint, outpaint, controlnet,
upscale and sdxl; all API-format files of five published packages; what was read on the way; three well-known
examples. Titles of nodes (`_meta`) and two long prompts were left out, which no verdict looks at.

Each had a device on which every file that it names exists: pictures, LoRA files, and small random packs of
true layout for checkpoints, ControlNets, IP-Adapters, image encoders and upscalers (`bench/wild_packs.py`).
Checkpoints of other kinds than Stable Diffusion 1 and XL had none: no pack can stand for those. So "runs"
means: the graph, to its end, at 512 pixels a side and 6 steps where it asks for more.

## Verdicts
"""

NOTE = """
With the nodes of the release before these were looked at, 12 ran; what was added since is in the changelog.
What still stops the graphs of Stable Diffusion: preprocessors of ControlNets that are models themselves,
samplers and loaders of other programs' extensions, an IP-Adapter node of an older extension, video; one links
a prompt's `clip` to an autoencoder, which ComfyUI refuses as well. Entries that are no nodes (`__params__`)
it refuses, too.
"""

if __name__ == "__main__":
    main()
