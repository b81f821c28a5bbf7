"""Make `tests/packs/tiny`: real ONNX graphs with random weights in the layout of Stable Diffusion.

Run it with the quantize extra installed: `python tests/make_tiny_pack.py`. The pictures are noise; what
counts is that the names, types, axes and files are those of a real pack.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import onnx
import onnxruntime as ort
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPTextConfig, CLIPTextModel

sys.path.insert(0, str(Path(__file__).parent.parent))
from edgegen.pack import (
    Defaults,
    GraphEntry,
    Manifest,
    Sizes,
    TokenizerEntry,
    file_entry,
    write_manifest,
)

OUT = Path(__file__).parent / "packs" / "tiny"
MAX_LENGTH = 77
WIDTH = 8
OPSET = 17
CORPUS = (
    "a red apple on a table",
    "a blue cat and a green dog with a hat",
    "the quick brown fox jumps over the lazy dog",
    "a photo of a small house near the sea",
    "don't you think it's a café for 123 naïve people",
)


def build_tokenizer() -> Tokenizer:
    """A CLIP-type tokenizer (lower case, `</w>` ends a word) with a few dozen merges."""
    tokenizer = Tokenizer(
        models.BPE(
            continuing_subword_prefix="", end_of_word_suffix="</w>", fuse_unk=False, unk_token="<|endoftext|>"
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=620, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), end_of_word_suffix="</w>"
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return with_clip_vocabulary(tokenizer)


def with_clip_vocabulary(trained: Tokenizer) -> Tokenizer:
    """CLIP's order: 256 bytes, 256 bytes ending a word, the merges, start, end."""
    data = json.loads(trained.to_str())
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [tuple(pair) for pair in data["model"]["merges"]]
    tokens = [*letters, *(c + "</w>" for c in letters), *("".join(pair) for pair in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    data["model"]["vocab"] = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    start, end = len(tokens) - 2, len(tokens) - 1
    tokenizer.post_processor = processors.RobertaProcessing(
        sep=("<|endoftext|>", end),
        cls_token=("<|startoftext|>", start),
        trim_offsets=False,
        add_prefix_space=False,
    )
    tokenizer.enable_truncation(MAX_LENGTH)
    tokenizer.enable_padding(length=MAX_LENGTH, pad_id=end, pad_token="<|endoftext|>")
    return tokenizer


class TextEncoder(torch.nn.Module):
    def __init__(self, vocab_size: int):
        super().__init__()
        config = CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=MAX_LENGTH,
            projection_dim=WIDTH,
            bos_token_id=vocab_size - 2,
            eos_token_id=vocab_size - 1,
            attn_implementation="eager",
        )
        self.clip = CLIPTextModel(config)
        for p in self.clip.parameters():  # CLIP starts near zero: words would hardly matter
            torch.nn.init.normal_(p, std=0.3)

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = self.clip(input_ids=input_ids)
        return out.last_hidden_state, out.pooler_output


class UNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(4, 8),
            layers_per_block=1,
            norm_num_groups=2,
            cross_attention_dim=WIDTH,
            attention_head_dim=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )
        self.unet.set_attn_processor(AttnProcessor())
        torch.nn.init.normal_(self.unet.conv_out.weight, std=0.3)

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> torch.Tensor:
        return self.unet(sample, timestep, encoder_hidden_states, return_dict=False)[0]


class VaeDecoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vae = AutoencoderKL(
            block_out_channels=(4, 4, 4, 4),
            layers_per_block=1,
            norm_num_groups=2,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )

    def forward(self, latent_sample: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(latent_sample, return_dict=False)[0]


def export(
    module: torch.nn.Module, args: dict, outputs: list[str], axes: dict, path: Path, external: bool = False
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(args)
    torch.onnx.export(
        module.eval(),
        tuple(args.values()),
        str(path),
        input_names=names,
        output_names=outputs,
        dynamic_axes=axes,
        opset_version=OPSET,
        dynamo=False,
    )
    graph = shrunk(path)
    where = (
        {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 256} if external else {}
    )
    onnx.save(graph, path, **where)
    onnx.checker.check_model(str(path))


def shrunk(path: Path) -> onnx.ModelProto:
    """Fold constants and give inner tensors short names: most of such a small graph is names."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    model = onnx.load(path)
    path.unlink()
    graph = model.graph
    del graph.value_info[:]
    kept = {value.name for value in [*graph.input, *graph.output]}
    short: dict[str, str] = {"": ""}
    for tensor in graph.initializer:
        tensor.name = short.setdefault(tensor.name, f"w{len(short)}")
    for node in graph.node:
        node.ClearField("name")
        node.ClearField("doc_string")
        for names in (node.input, node.output):
            names[:] = [n if n in kept else short.setdefault(n, f"t{len(short)}") for n in names]
    return model


def graph_entry(pack: Path, file: str) -> GraphEntry:
    files = {str(p.relative_to(pack)): file_entry(p) for p in sorted((pack / file).parent.iterdir())}
    return GraphEntry(file=file, precision="fp32", files=files)


@torch.no_grad()
def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    torch.manual_seed(20240229)
    tokenizer = build_tokenizer()
    (OUT / "tokenizer.json").write_text(tokenizer.to_str(), "utf-8")
    vocab_size = tokenizer.get_vocab_size()

    ids = torch.randint(0, vocab_size, (2, MAX_LENGTH))
    latents = torch.randn(2, 4, 8, 8)
    hidden = torch.randn(2, MAX_LENGTH, WIDTH)
    space = {0: "batch", 2: "height", 3: "width"}
    export(
        TextEncoder(vocab_size),
        {"input_ids": ids},
        ["last_hidden_state", "pooler_output"],
        {"input_ids": {0: "batch"}, "last_hidden_state": {0: "batch"}, "pooler_output": {0: "batch"}},
        OUT / "text_encoder/model.onnx",
        external=False,
    )
    export(
        UNet(),
        {"sample": latents, "timestep": torch.tensor([500]), "encoder_hidden_states": hidden},
        ["out_sample"],
        {"sample": space, "encoder_hidden_states": {0: "batch"}, "out_sample": space},
        OUT / "unet/model.onnx",
        external=True,
    )
    export(
        VaeDecoder(),
        {"latent_sample": latents},
        ["sample"],
        {"latent_sample": space, "sample": space},
        OUT / "vae_decoder/model.onnx",
        external=False,
    )
    token_file = file_entry(OUT / "tokenizer.json")
    write_manifest(
        OUT,
        Manifest(
            name="tiny",
            title="Random weights, for tests",
            family="sd1",
            graphs={
                role: graph_entry(OUT, f"{role}/model.onnx")
                for role in ("text_encoder", "unet", "vae_decoder")
            },
            tokenizer=TokenizerEntry(file="tokenizer.json", max_length=MAX_LENGTH, **token_file.model_dump()),
            prediction_type="epsilon",
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
            latent_channels=4,
            latent_scale=0.18215,
            defaults=Defaults(sampler="euler", steps=3, guidance=3.0, width=64, height=64),
            sizes=Sizes(min=32, max=128, multiple=16),
            min_ram_mb=64,
            licence="Apache-2.0",
            provenance={"made_by": "tests/make_tiny_pack.py"},
        ),
    )
    for p in sorted(OUT.rglob("*")):
        print(p.relative_to(OUT), p.stat().st_size if p.is_file() else "")


if __name__ == "__main__":
    main()
