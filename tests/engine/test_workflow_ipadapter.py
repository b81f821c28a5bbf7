"""CLIPVisionLoader, CLIPVisionEncode, IPAdapterModelLoader, IPAdapterUnifiedLoader, IPAdapter and
IPAdapterAdvanced on real sessions of the tiny pack.

Image encoder and adapters here are a few matrices; that real ones are heard as diffusers does is for
`tests/quantize/test_ipadapter.py`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgegen.component import ComponentManifest
from edgegen.diffusion.pixels import to_model_input
from edgegen.engine.componentcost import with_components
from edgegen.engine.estimate import estimate_seconds, graph_runs, measure, peak_memory
from edgegen.engine.executor import Executor, NodePictures
from edgegen.engine.imageprompt import ImageTokens
from edgegen.engine.imageweights import WEIGHT_TYPES, layer_weights
from edgegen.engine.nodes import NODES, check_for, packs_of
from edgegen.engine.workbench import Workbench
from edgegen.pack import FileEntry, GraphEntry, IpLayer, Pack, file_entry, write_manifest
from edgegen.settings import LimitSettings
from edgegen.workflow import BadWorkflow
from edgegen.workflow.parse import workflow_from
from quantize.export import tidy
from quantize.imageprompt import add_image_prompt, transformer_depths

TINY = Path(__file__).parent.parent / "packs" / "tiny"
TINY_UNET = {
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
SIDE, EMBEDS, STATES, TOKENS = 16, 5, 6, 4
FILES = {"eyes.safetensors": "CLIP-ViT-H-14-laion2B-s32B-b79K", "plus.bin": "ip-adapter-plus_sd15"}
EYES, PLUS, BASIC = "CLIP-ViT-H-14-laion2B-s32B-b79K", "ip-adapter-plus_sd15", "ip-adapter_sd15"


def write_graph(folder: Path, role: str, nodes: list[Any], weights: dict[str, Any], ends: Any) -> None:
    file = folder / role / "model.onnx"
    file.parent.mkdir(parents=True)
    values = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", *shape]) for name, shape in side]
        for side in ends
    ]
    graph = helper.make_graph(nodes, role, *ends, values)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)


def write_part(folder: Path, kind: Any, **facts: Any) -> None:
    name = f"{kind}/model.onnx"
    entry = GraphEntry(file=name, precision="fp32", files={name: file_entry(folder / name)})
    about = {"name": folder.name, "title": folder.name, "licence": "CC0"}
    write_manifest(folder, ComponentManifest(**about, **facts, kind=kind, graphs={kind: entry}))


def write_eyes(folder: Path) -> None:
    """Means of the colours of the whole, and of its quarters, in other words."""
    rng = np.random.default_rng(1)
    weights = {
        "a": rng.normal(size=(3, EMBEDS)).astype(np.float32),
        "b": rng.normal(size=(3, STATES)).astype(np.float32),
        "shape": np.array([0, 3, 4]),
    }
    nodes = [
        helper.make_node("ReduceMean", ["pixel_values"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "a"], ["image_embeds"]),
        helper.make_node(
            "AveragePool",
            ["pixel_values"],
            ["quarters"],
            kernel_shape=[SIDE // 2] * 2,
            strides=[SIDE // 2] * 2,
        ),
        helper.make_node("Reshape", ["quarters", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["rows", "b"], ["hidden_states"]),
    ]
    outputs = [("image_embeds", [EMBEDS]), ("hidden_states", [4, STATES])]
    write_graph(folder, "clip_vision", nodes, weights, [[("pixel_values", [3, SIDE, SIDE])], outputs])
    write_part(folder, "clip_vision", image_size=SIDE, embeds_width=EMBEDS, states_width=STATES)


def write_adapter(folder: Path, reads: str, channels: list[int]) -> None:
    rng = np.random.default_rng(2)
    total = sum(channels)
    width = EMBEDS if reads == "image_embeds" else STATES
    weights: dict[str, Any] = {"shape": np.array([-1, TOKENS, total])}
    nodes = [helper.make_node("ReduceMean", [reads], ["one"], axes=[1], keepdims=0)]
    if reads == "image_embeds":
        nodes = [helper.make_node("Identity", [reads], ["one"])]
    for name in ("ip_keys", "ip_values"):
        weights[f"{name}_w"] = rng.normal(size=(width, TOKENS * total)).astype(np.float32)
        nodes.append(helper.make_node("MatMul", ["one", f"{name}_w"], [f"{name}_flat"]))
        nodes.append(helper.make_node("Reshape", [f"{name}_flat", "shape"], [name]))
    inputs = [(reads, [width] if reads == "image_embeds" else ["rows", width])]
    outputs = [(name, [TOKENS, total]) for name in ("ip_keys", "ip_values")]
    write_graph(folder, "ip_adapter", nodes, weights, [inputs, outputs])
    write_part(
        folder,
        "ip_adapter",
        reads=reads,
        reads_width=width,
        tokens=TOKENS,
        words_width=8,
        ip_channels=channels,
    )


def write_looking(folder: Path) -> list[IpLayer]:
    """The tiny pack with a denoiser that looks at pictures."""
    shutil.copytree(TINY, folder)
    tidy(folder / "unet" / "model.onnx")
    layers = add_image_prompt(folder / "unet" / "model.onnx", transformer_depths(TINY_UNET))
    data = json.loads((folder / "pack.json").read_text("utf-8")) | {"name": folder.name}
    for role, name in (("unet", "model.onnx"), ("unet_ip", "ip.onnx")):
        files = [folder / "unet" / file for file in (name, "model.onnx.data")]
        entries = {f"unet/{file.name}": file_entry(file).model_dump() for file in files}
        data["graphs"][role] = {"file": f"unet/{name}", "precision": "fp32", "files": entries}
    data["ip_layers"] = [layer.model_dump() for layer in layers]
    (folder / "pack.json").write_text(json.dumps(data), "utf-8")
    return layers


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    packs = tmp_path_factory.mktemp("ip") / "packs"
    channels = [layer.channels for layer in write_looking(packs / "looking")]
    write_eyes(packs / EYES)
    write_adapter(packs / BASIC, "image_embeds", channels)
    write_adapter(packs / PLUS, "hidden_states", channels)
    write_adapter(packs / "stranger", "hidden_states", [*channels, 4])
    return packs


@pytest.fixture
def bench(packs: Path, tmp_path: Path) -> Iterator[Workbench]:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 24, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    bench = Workbench([packs, TINY.parent], FILES, tmp_path, LimitSettings(), "cpu", 1)
    yield bench
    bench.close()


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def graph(apply: dict[str, Any] | None = None, pack: str = "looking", **more: Any) -> dict[str, Any]:
    how = {"seed": 7, "steps": 3, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    model = ["20", 0] if apply else ["4", 0]
    links = {"positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0], "model": model}
    found = {
        "3": node("KSampler", **how, **links),
        "4": node("CheckpointLoaderSimple", ckpt_name=pack),
        "5": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "6": node("CLIPTextEncode", text="a red apple", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="a dog", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("PreviewImage", images=["8", 0]),
        "10": node("LoadImage", image="a.png"),
        "11": node("CLIPVisionLoader", clip_name="eyes.safetensors"),
        "12": node("IPAdapterModelLoader", ipadapter_file=f"{BASIC}.safetensors"),
        "13": node("IPAdapterModelLoader", ipadapter_file="plus.bin"),
        "14": node("IPAdapterUnifiedLoader", model=["4", 0], preset="PLUS (high strength)"),
    }
    return found | ({"20": apply} if apply else {}) | more


def advanced(**changes: Any) -> dict[str, Any]:
    usual = {
        "model": ["4", 0], "ipadapter": ["13", 0], "image": ["10", 0], "clip_vision": ["11", 0],
        "weight": 1.0, "weight_type": "linear", "combine_embeds": "concat", "start_at": 0.0, "end_at": 1.0,
        "embeds_scaling": "V only",
    }  # fmt: skip
    wanted = {**usual, **changes}
    return node("IPAdapterAdvanced", **{name: value for name, value in wanted.items() if value is not None})


def simple(**changes: Any) -> dict[str, Any]:
    usual = {"model": ["14", 0], "ipadapter": ["14", 1], "image": ["10", 0], "weight": 1.0, "start_at": 0.0,
             "end_at": 1.0, "weight_type": "standard"}  # fmt: skip
    return node("IPAdapter", **{**usual, **changes})


def drawn(bench: Workbench, data: dict[str, Any]) -> np.ndarray:
    found = list(Executor(bench).run(check_for(bench, workflow_from(data))))
    return next(item for item in found if isinstance(item, NodePictures)).shown.pixels[0]


def refusals(bench: Workbench, data: dict[str, Any]) -> list[tuple[str, str, str]]:
    with pytest.raises(BadWorkflow) as refused:
        check_for(bench, workflow_from(data))
    return [(p.node_id, p.input_name, p.message) for p in refused.value.found]


def test_a_picture_counts_and_both_nodes_agree(bench: Workbench) -> None:
    plain, looked = drawn(bench, graph()), drawn(bench, graph(advanced()))
    assert np.abs(looked.astype(int) - plain).mean() > 1
    assert np.array_equal(drawn(bench, graph(simple())), looked)
    eased = drawn(bench, graph(simple(weight_type="prompt is more important")))
    assert np.array_equal(eased, drawn(bench, graph(advanced(weight_type="ease out"))))
    assert not np.array_equal(eased, looked)
    assert not np.array_equal(drawn(bench, graph(advanced(ipadapter=["12", 0]))), looked)


def test_where_it_says_nothing_nothing_changes(bench: Workbench) -> None:
    plain = drawn(bench, graph())
    for apply in (advanced(weight=0.0), advanced(end_at=0.0), advanced(start_at=1.0)):
        assert np.array_equal(drawn(bench, graph(apply)), plain)
    early, late = drawn(bench, graph(advanced(end_at=0.4))), drawn(bench, graph(advanced(start_at=0.4)))
    assert not np.array_equal(early, late)


def test_every_option_makes_another_picture(bench: Workbench) -> None:
    options = [
        {}, {"weight": 0.5}, {"weight": -0.5}, {"embeds_scaling": "K+V", "weight": 0.5},
        {"embeds_scaling": "K+V w/ C penalty"}, {"embeds_scaling": "K+mean(V) w/ C penalty"},
        {"weight_type": "weak input"}, {"weight_type": "strong middle"}, {"weight_type": "ease in-out"},
        {"image_negative": ["10", 0]},
    ]  # fmt: skip
    found = [drawn(bench, graph(advanced(**option))).tobytes() for option in options]
    assert len(set(found)) == len(options)


def test_several_pictures_are_combined(bench: Workbench) -> None:
    (stages,) = NODES["CheckpointLoaderSimple"].run(bench, ckpt_name="looking")[:1]
    (adapter,) = NODES["IPAdapterModelLoader"].run(bench, ipadapter_file=PLUS)
    (eyes,) = NODES["CLIPVisionLoader"].run(bench, clip_name=EYES)
    rng = np.random.default_rng(4)
    one, other = (to_model_input(rng.integers(0, 256, (20, 20, 3), np.uint8)) for _ in range(2))
    usual = {**advanced()["inputs"], "model": stages, "ipadapter": adapter, "clip_vision": eyes}

    def told(**inputs: Any) -> ImageTokens:
        return NODES["IPAdapterAdvanced"].run(bench, **{**usual, **inputs})[0].images[-1].wanted

    first, second = told(image=one), told(image=other)
    both = np.concatenate([one, other])
    joined = told(image=both)
    assert np.allclose(joined.keys, np.concatenate([first.keys, second.keys], axis=1), atol=1e-6)
    mean = told(image=both, combine_embeds="average")  # these adapters are linear
    assert np.allclose(mean.values, (first.values + second.values) / 2, atol=1e-5)
    added = told(image=both, combine_embeds="add")
    assert np.allclose(added.keys, first.keys + second.keys, atol=1e-5)
    less = told(image=both, combine_embeds="subtract")
    assert np.allclose(less.keys, first.keys - second.keys, atol=1e-5)
    assert told(image=both, combine_embeds="norm average").keys.shape == first.keys.shape


def test_scalings_are_the_papers_sum(bench: Workbench) -> None:
    """Values times the weight are attention's result times the weight; keys times it are not."""
    rng = np.random.default_rng(0)
    keys, values = rng.normal(size=(2, 1, 4, 6)).astype(np.float32)
    layers = [IpLayer(channels=4, place=0, part="down"), IpLayer(channels=2, place=1, part="mid")]
    tokens = ImageTokens(keys, values)
    only = tokens.scaled(layers, [0.5, 0.0], "V only")
    assert np.array_equal(only.keys, keys)
    assert np.allclose(only.values, values * [0.5, 0.5, 0.5, 0.5, 0, 0])
    penalized = tokens.scaled(layers, [0.5, 1.0], "K+V w/ C penalty")
    assert np.allclose(penalized.keys, keys * np.repeat([0.5 * 4 / 1280, 2 / 1280], [4, 2]))
    mean = tokens.scaled(layers, [0.5, 0.0], "K+mean(V) w/ C penalty")
    spread = values - values.mean(1, keepdims=True)
    assert np.allclose(
        (mean.values - mean.values.mean(1, keepdims=True))[..., :4], spread[..., :4], atol=1e-6
    )
    assert not mean.values[..., 4:].any()


def test_weight_types_of_both_families() -> None:
    def of(kind: str, places: int) -> list[float]:
        part = "down"
        return layer_weights(kind, 2.0, [IpLayer(channels=1, place=k, part=part) for k in range(places)])

    assert of("linear", 3) == [2.0] * 3
    assert of("style transfer", 11) == [2.0 if k == 6 else 0.0 for k in range(11)]
    assert of("composition", 16)[4:6] == [0.5, 2.0]
    assert of("style and composition", 11)[3] == 1.0
    assert of("strong style transfer", 16).count(0.0) == 2
    assert of("ease in", 16)[0] == 2.0 > of("ease in", 16)[15] > 0.1
    assert all(len(of(kind, places)) == places for kind in WEIGHT_TYPES for places in (11, 16))
    with pytest.raises(ValueError, match="this one has 3: take linear"):
        of("composition", 3)


def test_what_does_not_fit_is_refused_by_the_check(bench: Workbench) -> None:
    (blind,) = refusals(bench, graph(advanced(), pack="tiny"))
    assert blind[:2] == ("20", "model")
    assert "--with-ip-adapter" in blind[2]
    (none,) = refusals(bench, graph(advanced(clip_vision=None)))
    assert none[:2] == ("20", "clip_vision")
    assert "IPAdapterUnifiedLoader" in none[2]
    stranger = node("IPAdapterModelLoader", ipadapter_file="stranger")
    (other,) = refusals(bench, graph(advanced(ipadapter=["15", 0]), **{"15": stranger}))
    assert other[1] == "ipadapter"
    assert "of another family" in other[2]


def older(packs: Path, folder: Path) -> Workbench:
    """A bench whose pack's graph was made before masks and several adapters were known."""
    old = folder / "older"
    shutil.copytree(packs / "looking", old)
    data = json.loads((old / "pack.json").read_text("utf-8")) | {"name": "older"}
    for layer in data["ip_layers"]:
        layer.pop("level", None)
    (old / "pack.json").write_text(json.dumps(data), "utf-8")
    return Workbench([folder, packs], FILES, folder, LimitSettings(), "cpu", 1)


def test_an_older_pack_takes_no_mask_and_one_adapter(packs: Path, bench: Workbench, tmp_path: Path) -> None:
    old = older(packs, tmp_path)
    first = {"21": advanced()}
    (twice,) = refusals(old, graph(advanced(model=["21", 0]), pack="older", **first))
    assert twice[:2] == ("20", "model")
    assert "older and listens to one IP-Adapter at a time; make it again" in twice[2]
    (masked,) = refusals(old, graph(advanced(attn_mask=["10", 1]), pack="older"))
    assert masked[1] == "attn_mask"
    assert "older and knows no masks" in masked[2]
    check_for(old, workflow_from(graph(advanced(), pack="older")))
    for data in (graph(advanced(model=["21", 0]), **first), graph(advanced(attn_mask=["10", 1]))):
        check_for(bench, workflow_from(data))


def test_two_adapters_add_up(bench: Workbench) -> None:
    def two(first: dict[str, Any], second: dict[str, Any]) -> np.ndarray:
        after = node("IPAdapterAdvanced", **second["inputs"] | {"model": ["21", 0]})
        return drawn(bench, graph(after, **{"21": first}))

    plus, basic = advanced(), advanced(ipadapter=["12", 0], weight=0.6)
    one, other = drawn(bench, graph(plus)), drawn(bench, graph(basic))
    both = two(plus, basic)
    assert not any(np.array_equal(both, single) for single in (one, other))
    assert np.abs(both.astype(int) - two(basic, plus)).max() <= 1  # in another order of summing
    assert np.array_equal(two(plus, advanced(ipadapter=["12", 0], weight=0.0)), one)
    assert np.abs(two(plus, advanced(ipadapter=["12", 0], end_at=0.0)).astype(int) - one).max() <= 1
    # the same picture twice at half the weight is once at the whole: each has an attention of its own
    half = advanced(weight=0.5)
    assert np.abs(two(half, half).astype(int) - one).max() <= 1


def test_a_mask_says_where_a_picture_counts(bench: Workbench) -> None:
    def masked(value: float, **more: Any) -> np.ndarray:
        solid = {"22": node("SolidMask", value=value, width=40, height=24)}
        return drawn(bench, graph(advanced(attn_mask=["22", 0], **more), **solid))

    plain, whole = drawn(bench, graph()), drawn(bench, graph(advanced()))
    assert np.array_equal(masked(1.0), whole)
    assert np.array_equal(masked(0.0), plain)
    assert np.abs(masked(0.5).astype(int) - drawn(bench, graph(advanced(weight=0.5)))).max() <= 1
    left = {
        "22": node("SolidMask", value=0.0, width=64, height=64),
        "23": node("SolidMask", value=1.0, width=32, height=64),
        "24": node("MaskComposite", destination=["22", 0], source=["23", 0], x=0, y=0, operation="add"),
    }
    half = drawn(bench, graph(advanced(attn_mask=["24", 0]), **left)).astype(int)
    assert not np.array_equal(half, plain) and not np.array_equal(half, whole)
    from_plain, from_whole = (np.abs(half - other).mean(axis=(0, 2)) for other in (plain, whole))
    assert from_plain[:24].mean() > 1.5 * from_plain[40:].mean()
    assert from_whole[:24].mean() < from_plain[:24].mean()
    assert from_whole[40:].mean() > from_plain[40:].mean()
    batch = node("LoadImage", image="a.png")
    many = {"25": batch, "26": node("ImageBatch", image1=["25", 0], image2=["25", 0])}
    many["27"] = node("ImageToMask", image=["26", 0], channel="red")
    with pytest.raises(BadWorkflow, match=r"attn_mask: one mask says where the picture counts; there are 2"):
        drawn(bench, graph(advanced(attn_mask=["27", 0]), **many))


def test_masks_are_fitted_to_each_level() -> None:
    mask = np.zeros((1, 32, 64), np.float32)
    mask[:, :, 32:] = 1
    tokens = ImageTokens(np.zeros((1, 4, 6), np.float32), np.zeros((1, 4, 6), np.float32), mask=mask)
    assert tokens.mask_at(0, 4, 8).reshape(4, 8)[0] == pytest.approx([0, 0, 0, 0, 1, 1, 1, 1], abs=0.1)
    assert tokens.mask_at(1, 4, 8).shape == (1, 8, 1)
    assert tokens.mask_at(2, 5, 9).shape == (1, 2 * 3, 1)  # a side that cannot be halved is rounded up
    assert replace(tokens, mask=None).mask_at(2, 5, 9).shape == (1, 1, 1)


def test_options_that_are_not_done_are_refused_with_those_that_are(bench: Workbench) -> None:
    (problem,) = refusals(bench, graph(advanced(weight_type="style transfer precise")))
    assert problem[1] == "weight_type"
    assert "linear, ease in, ease out" in problem[2]
    (problem,) = refusals(bench, graph(advanced(weight=6.0)))
    assert "-1 to 5" in problem[2]
    (problem,) = refusals(bench, graph(advanced(clip_vision=["11", 0], ipadapter=["12", 0]), **{
        "12": node("IPAdapterModelLoader", ipadapter_file="ip-adapter-faceid_sd15.bin")}))  # fmt: skip
    assert problem[:2] == ("12", "ipadapter_file")
    with pytest.raises(BadWorkflow, match="blocks of transformers"):
        drawn(bench, graph(advanced(weight_type="composition")))


def test_presets_stand_for_published_files(bench: Workbench) -> None:
    def with_preset(preset: str) -> dict[str, Any]:
        loader = node("IPAdapterUnifiedLoader", model=["4", 0], preset=preset)
        return graph(simple(), **{"14": loader})

    assert np.array_equal(
        drawn(bench, with_preset("STANDARD (medium strength)")),
        drawn(bench, graph(advanced(ipadapter=["12", 0]))),
    )
    (problem,) = refusals(bench, with_preset("PLUS FACE (portraits)"))
    assert problem[:2] == ("14", "preset")
    assert "not installed: ip-adapter-plus-face_sd15.safetensors" in problem[2]
    (problem,) = refusals(bench, with_preset("FULL FACE - SD1.5 only (portraits stronger)"))
    assert "PLUS (high strength)" in problem[2]


@pytest.mark.parametrize("crop", ["center", "none"])
def test_what_an_encoder_sees_may_be_had_alone(bench: Workbench, crop: str) -> None:
    (eyes,) = NODES["CLIPVisionLoader"].run(bench, clip_name=EYES)
    stripes = np.zeros((1, 3, 32, 64), np.float32)
    stripes[..., 16:48] = 1  # the middle square
    (seen,) = NODES["CLIPVisionEncode"].run(bench, clip_vision=eyes, image=stripes, crop=crop)
    assert (seen.image_embeds.shape, seen.hidden_states.shape) == ((1, EMBEDS), (1, 4, STATES))
    white = NODES["CLIPVisionEncode"].run(bench, clip_vision=eyes, image=stripes * 0 + 1, crop=crop)[0]
    assert np.allclose(seen.image_embeds, white.image_embeds, atol=0.2) == (crop == "center")


def test_the_estimate_counts_the_encoder(bench: Workbench) -> None:
    checked = check_for(bench, workflow_from(graph(advanced())))
    runs = graph_runs(bench, checked)
    assert runs is not None
    found = {(run.pack, run.role, run.size): times for run, times in runs.items()}
    assert found[EYES, "clip_vision", "16x16"] == 2, "the picture, and the black one"
    assert found[PLUS, "ip_adapter", ""] == 2
    assert found["looking", "unet_ip", "8x8"] == 6
    pace = measure(bench, runs)
    whole = estimate_seconds(runs, "cpu", pace).seconds
    assert whole is not None
    assert (
        whole > estimate_seconds({r: n for r, n in runs.items() if r.pack == "looking"}, "cpu", pace).seconds
    )
    packs = packs_of(bench, checked)
    mb, plain = (peak_memory(bench, packs, told)[0] for told in (runs, None))
    assert mb is not None and plain is not None
    assert mb >= plain


def test_large_encoders_are_counted_by_their_files(bench: Workbench) -> None:
    part = bench.component_for("clip_vision", EYES)
    file = FileEntry(sha256="0" * 64, bytes=400 * 10**6)
    entry = GraphEntry(file="m.onnx", precision="fp16", files={"m.onnx": file})
    large = replace(part, manifest=part.manifest.model_copy(update={"graphs": {"clip_vision": entry}}))
    assert with_components(1000, [large], ["full"]) == 2000
    assert with_components(1000, [large], ["mapped"]) == 1400
    assert with_components(200, [large], ["low"]) == 300
    assert with_components(1000, [large], ["low"]) == with_components(1000, [], ["full"]) == 1000


def test_the_pack_says_what_its_denoiser_can(packs: Path) -> None:
    pack = Pack.open(packs / "looking")
    pack.verify()
    assert [layer.part for layer in pack.manifest.ip_layers or ()] == ["down", "up", "up", "mid"]
