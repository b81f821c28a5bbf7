"""The shell command: build a pack from a checkpoint, or compare two packs."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import click

from edgegen.errors import EdgegenError
from edgegen.pack import Pack, PackHead, write_manifest

from . import evaluate as ev
from .components import Layout, find_component
from .original import Hints
from .progress import Progress, Style
from .prompts import calibration_prompts, evaluation_prompts, read_prompts
from .source import SourceError, open_source

ALONE = "this process does nothing else"
PICTURES_BAR = "bar for the built-in pack: SSIM 0.95, PSNR 30 dB"


class _DefaultGroup(click.Group):
    """`quantize SOURCE ...` is `quantize build SOURCE ...`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["build", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_DefaultGroup, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Turn a Stable Diffusion checkpoint into a pack for the device.

    \b
    python -m quantize SOURCE -o PACK --precision int8     build (see: build --help)
    python -m quantize compare PACK_A PACK_B               how far apart are their pictures?
    python -m quantize report PACK --open                  what it is, lost and costs, as one page
    python -m quantize rules                               what is rewritten in the graphs, and why
    """


_FILE = click.Path(path_type=Path)
NET_PICTURES = 12  # led ones, to record a ControlNet's ranges and to judge it


@cli.command()
@click.argument("source", type=_FILE)
@click.option("-o", "--output", type=_FILE, required=True, help="The pack: a folder that does not exist yet.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8", "w8", "w4"]),
    default="int8",
    show_default=True,
    help="fp32: the reference. fp16: half the bytes, same speed. int8: a quarter of the bytes, fastest. "
    "w8, w4: weights in 8 or 4 bits, activations float: for memory.",
)
@click.option(
    "--target",
    type=click.Choice(["any", "x86-64", "arm64"]),
    default="any",
    show_default=True,
    help="Whose INT8 kernels to favour. any and x86-64: unsigned activations and 7-bit weights, exact also "
    "on CPUs without VNNI. arm64: signed activations, 8-bit weights.",
)
@click.option("--tokenizer", type=_FILE, help="For a single file: a folder with CLIP's tokenizer.")
@click.option(
    "--prediction",
    type=click.Choice(["epsilon", "v_prediction"]),
    help="For a single file of Stable Diffusion 2: what it predicts.",
)
@click.option("--turbo", is_flag=True, help="The single file is distilled to few steps without guidance.")
@click.option("--name", help="Name of the pack (default: from pack_defaults.json, else the folder's).")
@click.option("--title", help="One line for people.")
@click.option("--licence", help="Licence of the weights.")
@click.option(
    "--calibration-prompts", type=_FILE, help="One prompt a line; default: 24 everyday things over colours."
)
@click.option("--evaluation-prompts", type=_FILE, help="One prompt a line; default: 50 other things.")
@click.option("--steps", type=click.IntRange(1, 1000), help="Denoising steps of the pack's default settings.")
@click.option(
    "--samples",
    type=click.IntRange(1, 100_000),
    default=128,
    show_default=True,
    help="Recorded inputs to keep per graph for calibration.",
)
@click.option(
    "--calibration",
    type=click.Choice(["mse", "minmax", "percentile", "entropy", "auto"]),
    default="mse",
    show_default=True,
    help="How activation ranges are chosen from what was recorded; auto: try mse, minmax and percentile.",
)
@click.option(
    "--seed", type=click.IntRange(0, 800_000), default=0, show_default=True, help="First calibration seed."
)
@click.option(
    "--keep-float",
    multiple=True,
    metavar="PATTERN",
    help="Layers to keep float, by name: '*conv_out*'. May be repeated.",
)
@click.option(
    "--float-budget",
    type=click.FloatRange(0, 1),
    default=0.03,
    show_default=True,
    help="Share of a graph's weights that may stay float to reach its target.",
)
@click.option(
    "--target-sqnr",
    multiple=True,
    metavar="ROLE=DB",
    help="Signal to quantization noise to reach, e.g. unet=36: the layers that hurt most stay float for it.",
)
@click.option(
    "--without-rule",
    multiple=True,
    metavar="NAME",
    help="A rewrite to leave out (`rules` lists them). May be repeated.",
)
@click.option("--no-sensitivity", is_flag=True, help="Do not judge layers one by one (faster).")
@click.option("--no-evaluate", is_flag=True, help="Do not compare with float32 (faster).")
@click.option("--with-encoder", is_flag=True, help="Include vae_encoder (pictures to latents).")
@click.option("--with-control", is_flag=True, help="Let ControlNets speak to the denoiser (unet_control).")
@click.option(
    "--base",
    type=_FILE,
    metavar="PACK",
    help="For a ControlNet in INT8: the pack (--with-control) that it leads while ranges are recorded.",
)
@click.option("--with-ip-adapter", is_flag=True, help="Let IP-Adapters speak to the denoiser (unet_ip).")
@click.option(
    "--ip-adapter",
    type=_FILE,
    metavar="FILE",
    help="As --with-ip-adapter; INT8 ranges also see the tokens of this adapter (.safetensors).",
)
@click.option(
    "--sheet", type=_FILE, help="Contact sheet to write: float32 and this pack, side by side (PNG)."
)
@click.option(
    "--budget",
    type=click.FloatRange(0.5, 10_000),
    default=8.0,
    show_default=True,
    metavar="MINUTES",
    help="What a full-size model may take on two cores of a PC: fewer pictures are made to record and to "
    "compare. Small models are done long before.",
)
@click.option("--fresh", is_flag=True, help="Take nothing over from a build that was cut off.")
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
@click.option("--json", "as_json", is_flag=True, help="Progress and result as JSON, one object a line.")
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.pass_context
def build(ctx: click.Context, source: Path, output: Path, precision: str, target: str, **flags: Any) -> None:
    """Build a pack from SOURCE: a diffusers folder, one .safetensors file, or a folder of ONNX graphs.

    \b
    A folder holds text_encoder/, unet/, vae/, scheduler/ and tokenizer/ (SDXL also text_encoder_2/).
    A file is Stable Diffusion 1, 2 or XL whole, as trained; it needs --tokenizer FOLDER.
    ONNX graphs lie as optimum exports them: unet/model.onnx and so on, scheduler/, tokenizer/.
    Upscalers of the ESRGAN family and IP-Adapters (.safetensors), ControlNets (a diffusers folder) and CLIP
    image encoders (a transformers folder) become packs for workflows, fp16 or fp32 (default: fp16);
    ControlNets also int8, judged by the pictures that they lead --base to.
    Pickles (.ckpt, .bin, .pt) run code when they are opened and are refused, whatever their name.

    pack_defaults.json in the folder (NAME.pack_defaults.json beside a file) may set name, title, defaults
    (sampler, steps, guidance, width, height), sizes, licence and provenance.

    Every graph is compared with PyTorch after export. For INT8, pictures are made in float32 first and what
    the graphs see is recorded; layers are judged and the few that hurt most stay float. The pack
    carries its own evaluation. Nothing appears at OUTPUT before all of it is done. Cut off, by Ctrl-C or by
    the power, the same command goes on from the last finished step, kept in OUTPUT.work.
    """
    if component := find_component(source):
        is_default = ctx.get_parameter_source("precision") is click.core.ParameterSource.DEFAULT
        flags["target"] = target
        _build_component(source, component, output, "fp16" if is_default else precision, flags)
        return
    hints = Hints(flags["tokenizer"], flags["prediction"], flags["turbo"])
    open_source(source, hints)  # a wrong source is told at once: importing torch takes seconds
    from .aside import Aside, can_be_made
    from .build import BuildOptions, build_pack
    from .convert import TARGET_SQNR_DB, Int8Options
    from .rules import check_names
    from .shown import open_adapter

    check_names(flags["without_rule"])
    if flags["ip_adapter"]:
        open_adapter(flags["ip_adapter"])
    calibration, evaluation = flags["calibration_prompts"], flags["evaluation_prompts"]
    int8 = Int8Options(
        target=target,  # type: ignore[arg-type]
        method=flags["calibration"],
        keep_float=tuple(flags["keep_float"]),
        float_budget=flags["float_budget"],
        target_sqnr_db={**TARGET_SQNR_DB, **_targets(flags["target_sqnr"])},
        sensitivity=not flags["no_sensitivity"],
        without_rules=flags["without_rule"],
    )
    options = BuildOptions(
        precision=precision,  # type: ignore[arg-type]
        name=flags["name"],
        title=flags["title"],
        licence=flags["licence"],
        steps=flags["steps"],
        calibration_prompts=read_prompts(calibration) if calibration else calibration_prompts(24),
        evaluation_prompts=read_prompts(evaluation) if evaluation else evaluation_prompts(50),
        samples=flags["samples"],
        seed=flags["seed"],
        evaluate=not flags["no_evaluate"],
        with_encoder=flags["with_encoder"],
        with_control=flags["with_control"],
        with_ip_adapter=flags["with_ip_adapter"] or flags["ip_adapter"] is not None,
        ip_adapter=flags["ip_adapter"],
        sheet=flags["sheet"],
        int8=int8,
        hints=hints,
        without_rules=flags["without_rule"],
        force=flags["force"],
        fresh=flags["fresh"],
        budget_s=60 * flags["budget"],
    )
    style = _style(flags["quiet"], flags["as_json"])
    progress = Progress(style, sys.stdout if style == "json" else None)
    is_alone = ctx.find_root().obj == ALONE
    with contextlib.closing(Aside()) if is_alone and can_be_made() else contextlib.nullcontext() as aside:
        manifest = build_pack(source, output, options, progress, aside)
    if style == "json":
        click.echo(json.dumps({"event": "pack", "pack": str(output), "evaluation": manifest.evaluation}))
    if style in ("json", "quiet"):
        return
    click.echo(f"{output}: {_megabytes(manifest)} MB of {precision}")
    for line in evaluation_lines(manifest):
        click.echo(line)


def _build_component(
    source: Path,
    layout: Layout,
    output: Path,
    precision: str,
    flags: dict[str, Any],
) -> None:
    from .buildcomponent import Int8Plan, build_component, given_for
    from .convert import Int8Options

    style = _style(flags["quiet"], flags["as_json"])
    progress = Progress(style, sys.stdout if style == "json" else None)
    given = given_for(source, flags)
    plan = None
    if flags["base"]:
        recording, judging = flags["calibration_prompts"], flags["evaluation_prompts"]
        prompts = (
            read_prompts(recording) if recording else calibration_prompts(NET_PICTURES),
            read_prompts(judging) if judging else evaluation_prompts(NET_PICTURES),
        )
        options = Int8Options(flags["target"], flags["calibration"], tuple(flags["keep_float"]))
        plan = Int8Plan(flags["base"], prompts, options)
    manifest = build_component(source, layout, output, precision, given, progress, flags["force"], plan)  # type: ignore[arg-type]
    if style == "json":
        click.echo(json.dumps({"event": "pack", "pack": str(output), "evaluation": manifest.evaluation}))
    elif style != "quiet":
        click.echo(f"{output}: {_megabytes(manifest)} MB of {precision}, {manifest.kind}")
        for line in evaluation_lines(manifest):
            click.echo(line)


def _style(quiet: bool, as_json: bool) -> Style:
    if quiet and as_json:
        raise click.UsageError("--quiet and --json exclude each other")
    if quiet or as_json:
        return "quiet" if quiet else "json"
    return "live" if sys.stderr.isatty() else "lines"


def _targets(rows: tuple[str, ...]) -> dict[str, float]:
    """`unet=36` -> {"unet": 36.0}."""
    found = {}
    for row in rows:
        role, _, value = row.partition("=")
        try:
            found[role.strip()] = float(value)
        except ValueError:
            raise click.BadParameter(f"{row!r} is not ROLE=DB, such as unet=36") from None
    return found


def _megabytes(manifest: PackHead) -> str:
    return f"{sum(entry.bytes for entry in manifest.files().values()) / 1e6:.1f}"


def evaluation_lines(manifest: PackHead) -> list[str]:
    """What a pack says about itself, for people."""
    data: dict[str, Any] = manifest.evaluation
    if "graphs" not in data:
        return []
    rows = [("graph", "MB", "SQNR dB", "worst rel. error", "float layers")]
    for role, g in data["graphs"].items():
        sqnr, error = g.get("sqnr_db"), g.get("relative_error")
        kept = str(len(g["float_layers"])) if "float_layers" in g else "all"
        shown = (f"{sqnr:.1f}", f"{error:.4f}") if sqnr is not None else ("-", "-")
        rows.append((role, f"{g['bytes'] / 1e6:.1f}", *shown, kept))
    p, c = data["pictures"], data.get("cost")
    led = f" led in pack {data['base']}" if "base" in data else ""
    lines = [
        *ev.table(rows),
        f"{p['pictures']} pictures{led} against float32: PSNR {p['psnr_db']:.1f} dB "
        f"(worst {p['psnr_db_worst']:.1f}), SSIM {p['ssim']:.4f} (worst {p['ssim_worst']:.4f})",
    ]
    if c:
        cost = f"one picture: {c['seconds']} s, peak memory {c['peak_mb']} MB, loading {c['load_s']} s"
        lines.append(f"{cost} ({c['machine']})")
    return lines


@cli.command()
@click.argument("pack_a", type=_FILE)
@click.argument("pack_b", type=_FILE)
@click.option("--prompts", type=_FILE, help="One prompt a line; default: 50 everyday things over colours.")
@click.option(
    "--count", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Default prompts to use."
)
@click.option("--seed", type=click.IntRange(0, 2**31), default=900_000, show_default=True)
@click.option("--sheet", type=_FILE, help="Contact sheet to write: A and B side by side (PNG).")
def compare(
    pack_a: Path, pack_b: Path, prompts: Path | None, count: int, seed: int, sheet: Path | None
) -> None:
    """Make the same pictures with PACK_A and PACK_B and say how far apart they are."""
    from .runner import Runner

    packs = [Pack.open(pack_a), Pack.open(pack_b)]
    words = read_prompts(prompts) if prompts else evaluation_prompts(count)
    first, second = (ev.make_pictures(Runner.of_pack(pack), words, seed) for pack in packs)
    if first[0].shape != second[0].shape:
        raise SourceError(f"the packs' default sizes differ: {first[0].shape} and {second[0].shape}")
    drift = ev.picture_drift(first, second)
    if sheet:
        ev.contact_sheet(first, second, sheet)
    costs = [ev.measure_cost(pack.folder, words[0]) for pack in packs]
    rows = [("pack", "MB", "s a picture", "load s", "peak MB")]
    for pack, cost in zip(packs, costs, strict=True):
        numbers = (
            f"{pack.size_bytes / 1e6:.1f}",
            f"{cost.seconds:.2f}",
            f"{cost.load_s:.2f}",
            str(cost.peak_mb),
        )
        rows.append((str(pack.folder), *numbers))
    for line in ev.table(rows):
        click.echo(line)
    click.echo(
        f"{drift.pictures} pictures: PSNR {drift.psnr_db:.2f} dB (worst {drift.psnr_db_worst:.2f}), "
        f"SSIM {drift.ssim:.4f} (worst {drift.ssim_worst:.4f}); {PICTURES_BAR}"
    )


@cli.command()
@click.argument("pack", type=_FILE)
@click.option("-o", "--output", type=_FILE, help="Where to write the page; default: report.html in the pack.")
@click.option("--open", "show", is_flag=True, help="Open the page in the browser.")
@click.option(
    "--against",
    type=_FILE,
    metavar="FP32_PACK",
    help="Measure anew: pictures, drift and costs, next to a --precision fp32 pack of the same source.",
)
@click.option("--prompts", type=_FILE, help="With --against: one prompt a line; default: 50 everyday things.")
def report(pack: Path, output: Path | None, show: bool, against: Path | None, prompts: Path | None) -> None:
    """Write PACK's report anew, as one HTML page with pictures and plots and nothing outside it.

    What it shows is in the pack: pack.json, and report.json with the pictures and what every graph costs.
    With -o only the page is written; without it what is new goes into the pack, its hashes into pack.json.
    """
    from .report.data import PAGE_NAME, read_report
    from .report.make import attach, write_page

    opened = Pack.open(pack)
    manifest, found = opened.manifest, read_report(pack)
    if against:
        from .report.against import measure_against

        words = read_prompts(prompts) if prompts else evaluation_prompts(50)
        manifest, found = measure_against(opened, Pack.open(against), words)
    page = output or pack / PAGE_NAME
    if output:
        write_page(output, manifest, found)
    else:
        write_manifest(pack, attach(pack, manifest, found))
    click.echo(f"{page}: {page.stat().st_size / 1e6:.2f} MB")
    if show:
        click.launch(page.absolute().as_uri())


@cli.command()
def rules() -> None:
    """List the rewrites that make graphs faster or smaller; --without-rule NAME leaves one out."""
    from .rules import RULES

    for rule in RULES:
        click.echo(f"{rule.name} ({rule.stage})\n    {rule.does}\n    {rule.pays}")


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command; expected failures are one line and an exit code, never a traceback."""
    signal.signal(signal.SIGTERM, _stop)  # so that what it started ends with it
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        cli.main(standalone_mode=False, obj=ALONE)
    except click.ClickException as err:
        err.show()
        sys.exit(err.exit_code)
    except EdgegenError as err:
        click.echo(f"error: {err}", err=True)
        sys.exit(err.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped; the same command goes on from the last finished step", err=True)
        sys.exit(130)
