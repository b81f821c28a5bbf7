"""Reading a folder of ONNX graphs in the layout of diffusers and optimum: what is in it, and does it fit.

Weights stay where they are. Where a config is missing, the graphs' own shapes tell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, ValueInfoProto

from .configs import TIME_IDS, Configs
from .folder import read_config, tokenizer_problems
from .graphs import load_graph
from .original import LATENT_SCALE
from .refusal import SourceError, raise_if

DOMAINS = ("", "ai.onnx", "com.microsoft")
OLDEST_OPSET = 13  # below it weights cannot be quantized by channel
INPUTS = {
    "text_encoder": ("input_ids",),
    "text_encoder_2": ("input_ids",),
    "unet": ("sample", "timestep", "encoder_hidden_states"),
    "vae_decoder": ("latent_sample",),
    "vae_encoder": ("sample",),
}
OUTPUTS = {
    "text_encoder": ("last_hidden_state",),
    "text_encoder_2": ("text_embeds",),
    "unet": ("out_sample",),
    "vae_decoder": ("sample",),
    "vae_encoder": ("latent_sample",),
}
SIZED = ("sample", "latent_sample")
SDXL_EXTRAS = ("text_embeds", "time_ids")
EXTRAS = ("timestep_cond", *SDXL_EXTRAS)
HIDDEN = "hidden_states"  # optimum numbers them: the embedding's 0, then every layer's


def read_onnx_folder(folder: Path, own_tokenizer: bool) -> Configs:
    """Configs as a diffusers folder would have them.

    Args:
        own_tokenizer: the tokenizer is to come out of this folder.
    Raises:
        SourceError: naming every graph, name or file that is missing or unfit.
    """
    problems: list[str] = []
    unet = _skeleton(folder, "unet", problems)
    is_sdxl = unet is not None and set(SDXL_EXTRAS) <= {i.name for i in unet.graph.input}
    roles = ["text_encoder", *(["text_encoder_2"] if is_sdxl else []), "vae_decoder"]
    graphs = {"unet": unet, **{role: _skeleton(folder, role, problems) for role in roles}}
    for role, graph in graphs.items():
        if graph is not None:
            problems += graph_problems(role, graph, is_sdxl)
    if own_tokenizer:
        problems += tokenizer_problems(folder / "tokenizer")
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json", problems)
    found = {role: _config_beside(folder, role, problems) for role in graphs}
    raise_if(folder, problems)
    configs = _shape_configs(graphs["unet"], is_sdxl)
    vae = {**configs["vae"], **found.pop("vae_decoder")}
    return {**{name: {**configs[name], **found[name]} for name in found}, "vae": vae, "scheduler": scheduler}


def _config_beside(folder: Path, role: str, problems: list[str]) -> dict[str, Any]:
    path = folder / role / "config.json"
    return read_config(path, problems) if path.exists() else {}


def _skeleton(folder: Path, role: str, problems: list[str]) -> ModelProto | None:
    path = folder / role / "model.onnx"
    if not path.is_file():
        problems.append(f"{role}/model.onnx is missing")
        return None
    try:
        return read_skeleton(path)
    except SourceError as err:
        problems.append(str(err))
        return None


def read_skeleton(path: Path) -> ModelProto:
    """A graph without its external weights. Raises SourceError when it is none."""
    try:
        return load_graph(path, weights=False)
    except (DecodeError, ValueError, OSError) as err:
        raise SourceError(f"{path.parent.name}/{path.name} is no ONNX graph: {err}") from None


def graph_problems(role: str, model: ModelProto, is_sdxl: bool) -> list[str]:
    """Why a graph cannot take part as `role`: names, types, operators."""
    inputs = {value.name: value for value in model.graph.input}
    outputs = [value.name for value in model.graph.output]
    weights = {tensor.name for tensor in model.graph.initializer}
    problems = [f"has no input {name}" for name in INPUTS[role] if name not in inputs]
    known = (*INPUTS[role], *weights, *(EXTRAS if role == "unet" else ()))
    problems += [f"has an input {name}, which nothing feeds" for name in inputs if name not in known]
    lacking = _lacking_outputs(role, outputs, is_sdxl)
    problems += [f"has no output {name}; it has {', '.join(outputs)}" for name in lacking]
    for name, value in inputs.items():
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            problems.append(f"takes {name} in FP16; export it in float32")
        if name in SIZED and any(_dims(value)[2:]):
            problems.append(f"takes {name} of one size alone; export it with dynamic axes")
        if name != "timestep" and (batch := (_dims(value) or [0])[0]):
            problems.append(f"takes {name} in batches of {batch}; export it with dynamic axes")
    strange = sorted({node.domain for node in model.graph.node} - set(DOMAINS))
    problems += [f"uses operators of {domain!r}" for domain in strange]
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST_OPSET:
        problems.append(f"has opset {opset}; at least {OLDEST_OPSET} is needed")
    return [f"{role}/model.onnx {problem}" for problem in problems]


def _lacking_outputs(role: str, outputs: list[str], is_sdxl: bool) -> list[str]:
    """Outputs that a graph lacks. What SDXL reads of its encoders may be one of many numbered states."""
    if not (is_sdxl and role.startswith("text_encoder")):
        return [name for name in OUTPUTS[role] if name not in outputs]
    lacking = [] if penultimate_output(outputs) else [HIDDEN]
    return [*lacking, *(n for n in OUTPUTS[role] if role == "text_encoder_2" and n not in outputs)]


def penultimate_output(outputs: list[str]) -> str | None:
    """The output with the states of the last layer but one; None when there is none."""
    if HIDDEN in outputs:
        return HIDDEN
    numbers = [name.removeprefix(f"{HIDDEN}.") for name in outputs if name.startswith(f"{HIDDEN}.")]
    ranked = sorted(int(number) for number in numbers if number.isdecimal())
    return f"{HIDDEN}.{ranked[-2]}" if len(ranked) > 1 else None


def _dims(value: ValueInfoProto) -> list[int]:
    """Sizes along the axes; 0 where they may change."""
    return [int(dim.dim_value) for dim in value.type.tensor_type.shape.dim]


def _shape_configs(unet: ModelProto | None, is_sdxl: bool) -> Configs:
    """What the denoiser's shapes tell; configs beside the graphs, where there are any, say it better."""
    if unet is None:
        raise SourceError("unet/model.onnx is missing")
    dims = {value.name: _dims(value) for value in unet.graph.input}
    channels, width = dims["sample"][1], dims["encoder_hidden_states"][2]
    pooled = dims["text_embeds"][1] if is_sdxl else 0
    text = {"model_type": "clip_text_model", "hidden_size": width - pooled}
    family = "sdxl" if is_sdxl else "sd1"
    configs: Configs = {
        "text_encoder": text,
        "unet": {
            "_class_name": "UNet2DConditionModel",
            "in_channels": channels,
            "sample_size": 128 if is_sdxl else 64,
            "cross_attention_dim": width,
            "use_linear_projection": width != 768,  # what the graph cannot tell, and only a name hangs on
            "time_cond_proj_dim": dims["timestep_cond"][1] if "timestep_cond" in dims else None,
            "block_out_channels": [1] * (3 if is_sdxl else 4),
        },
        "vae": {
            "_class_name": "AutoencoderKL",
            "latent_channels": channels,
            "block_out_channels": [1] * 4,
            "scaling_factor": LATENT_SCALE[family],
        },
    }
    if is_sdxl:
        configs["text_encoder_2"] = {**text, "hidden_size": pooled, "projection_dim": pooled}
        sizes = {"addition_time_embed_dim": 1, "projection_class_embeddings_input_dim": pooled + TIME_IDS}
        configs["unet"] |= {"addition_embed_type": "text_time", **sizes}
    return configs
