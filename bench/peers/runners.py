"""Who is compared: each loads the same three graphs its own way and runs them on numpy arrays.

Roles are `text_encoder`, `unet` and `vae_decoder`. Folders below WORK are made by `prepare`. Libraries are
imported by the runner that needs them: no environment has all of them.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Runner(Protocol):
    """Float32 numpy in and out. unet: (1, 4, h, w), timestep, (1, 77, width) -> (1, 4, h, w)."""

    def load(self, role: str) -> None: ...
    def text(self, ids: np.ndarray) -> np.ndarray: ...
    def unet(self, latents: np.ndarray, timestep: float, words: np.ndarray) -> np.ndarray: ...
    def decode(self, latents: np.ndarray) -> np.ndarray: ...


class TorchRunner:
    """diffusers and transformers, eager, float32 or bfloat16 by autocast."""

    def __init__(self, work: Path, threads: int, half: bool = False):
        import torch

        torch.set_num_threads(threads)
        self._torch, self._folder, self._half = torch, work / "checkpoint", half
        self._models: dict[str, Any] = {}

    def load(self, role: str) -> None:
        from diffusers import AutoencoderTiny, UNet2DConditionModel
        from transformers import CLIPTextModel

        kinds = {"unet": UNet2DConditionModel, "vae_decoder": AutoencoderTiny, "text_encoder": CLIPTextModel}
        folder = self._folder / role.replace("vae_decoder", "vae")
        self._models[role] = kinds[role].from_pretrained(folder, use_safetensors=True).eval()

    def text(self, ids: np.ndarray) -> np.ndarray:
        return self._run("text_encoder", lambda model: model(self._torch.from_numpy(ids)).last_hidden_state)

    def unet(self, latents: np.ndarray, timestep: float, words: np.ndarray) -> np.ndarray:
        given = [self._torch.from_numpy(np.ascontiguousarray(x, np.float32)) for x in (latents, words)]
        return self._run("unet", lambda model: model(given[0], timestep, given[1]).sample)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        given = self._torch.from_numpy(latents)
        return self._run("vae_decoder", lambda model: model.decode(given).sample)

    def _run(self, role: str, call: Callable[[Any], Any]) -> np.ndarray:
        torch = self._torch
        half = torch.autocast("cpu", torch.bfloat16) if self._half else nullcontext()
        with torch.inference_mode(), half:
            return call(self._models[role]).float().numpy()


class _GraphRunner(ABC):
    """Graphs with the input names of the pack contract; `_call(role, feeds)` runs one."""

    @abstractmethod
    def _call(self, role: str, feeds: dict[str, np.ndarray]) -> np.ndarray: ...

    def text(self, ids: np.ndarray) -> np.ndarray:
        return self._call("text_encoder", {"input_ids": ids})

    def unet(self, latents: np.ndarray, timestep: float, words: np.ndarray) -> np.ndarray:
        given = {"sample": np.asarray(latents, np.float32), "timestep": np.array([timestep], np.float32)}
        return self._call("unet", given | {"encoder_hidden_states": np.asarray(words, np.float32)})

    def decode(self, latents: np.ndarray) -> np.ndarray:
        return self._call("vae_decoder", {"latent_sample": latents})


class OrtRunner(_GraphRunner):
    """ONNX Runtime, stock session options, CPU; roles it has no graph of: `exported`'s."""

    def __init__(self, work: Path, threads: int, graphs: str):
        self._work, self._threads, self._graphs = work, threads, graphs
        self._sessions: dict[str, Any] = {}

    def load(self, role: str) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        path = self._work / self._graphs / role / "model.onnx"
        if not path.exists():
            path = self._work / "exported" / role / "model.onnx"
        self._sessions[role] = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def _call(self, role: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
        return self._sessions[role].run(None, feeds)[0]


class EdgegenRunner(_GraphRunner):
    """Ours: the device's own sessions on a pack.

    Args:
        precision: for OpenVINO to compute in, in place of its own choice.
    """

    def __init__(
        self, work: Path, threads: int, pack: str, provider: str = "cpu", precision: str | None = None
    ):
        from edgegen.engine.providers import choose_provider
        from edgegen.engine.sessioncache import SessionCache
        from edgegen.pack import Pack

        choice = choose_provider(provider)
        if precision:
            options = openvino_options(threads, precision)
            choice = replace(choice, make_options=lambda _threads, _folder: options)
        self._pack = Pack.open(work / pack)
        self._sessions = SessionCache(self._pack, choice, threads)

    def load(self, role: str) -> None:
        from edgegen.engine.decoding import HEAD, TAIL

        cut = role == "vae_decoder" and self._sessions.on_cpu and TAIL in self._sessions.roles
        for part in (HEAD, TAIL) if cut else (role,):
            self._sessions.get(part)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        from edgegen.engine.decoding import decode
        from edgegen.engine.memory import FULL

        return decode(self._sessions, latents, FULL, self._pack.manifest.latent_downscale)[0]

    def _call(self, role: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
        return next(iter(self._sessions.get(role).run(feeds).values()))


def openvino_options(threads: int, precision: str) -> dict[str, str]:
    """Of the plugin; as `edgegen.engine.providers` makes them, and the precision."""
    properties = {"INFERENCE_NUM_THREADS": str(threads), "INFERENCE_PRECISION_HINT": precision}
    return {"load_config": json.dumps({"CPU": properties})}


class OpenVinoRunner(_GraphRunner):
    """OpenVINO's own runtime on its intermediate representation."""

    def __init__(self, work: Path, threads: int, graphs: str, precision: str | None = None):
        import openvino as ov

        self._core, self._folder, self._fallback = ov.Core(), work / graphs, work / "openvino-fp16"
        self._options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        if precision:
            self._options["INFERENCE_PRECISION_HINT"] = precision
        self._models: dict[str, Any] = {}

    def load(self, role: str) -> None:
        path = self._folder / f"{role}.xml"
        path = path if path.exists() else self._fallback / f"{role}.xml"
        self._models[role] = self._core.compile_model(str(path), "CPU", self._options)

    def _call(self, role: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
        return np.array(self._models[role](feeds)[0])


RUNNERS: dict[str, Callable[[Path, int], Runner]] = {
    "diffusers-fp32": lambda w, t: TorchRunner(w, t),
    "diffusers-bf16": lambda w, t: TorchRunner(w, t, half=True),
    "ort-exported": lambda w, t: OrtRunner(w, t, "exported"),
    "ort-stock-qdq": lambda w, t: OrtRunner(w, t, "stock-qdq"),
    "edgegen-int8": lambda w, t: EdgegenRunner(w, t, "edgegen-int8"),
    "edgegen-int8-openvino": lambda w, t: EdgegenRunner(w, t, "edgegen-int8", "openvino"),
    "edgegen-int8-openvino-f32": lambda w, t: EdgegenRunner(w, t, "edgegen-int8", "openvino", "f32"),
    "openvino-fp16": lambda w, t: OpenVinoRunner(w, t, "openvino-fp16"),
    "openvino-fp16-f32": lambda w, t: OpenVinoRunner(w, t, "openvino-fp16", "f32"),
    "openvino-w8": lambda w, t: OpenVinoRunner(w, t, "openvino-w8"),
    "openvino-nncf-int8": lambda w, t: OpenVinoRunner(w, t, "openvino-nncf-int8"),
    "openvino-nncf-int8-f32": lambda w, t: OpenVinoRunner(w, t, "openvino-nncf-int8", "f32"),
}
