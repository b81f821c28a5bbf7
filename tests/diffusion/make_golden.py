"""Record what diffusers' schedulers do into `golden.npz`: `python tests/diffusion/make_golden.py`.

DPM-Solver++(3M) SDE is k-diffusion's (0.1.1.post1, its folder in PYTHONPATH), for diffusers' step of order 3
has one sign wrong: its weight of the second difference does not vanish with the step.

Each case feeds the same recorded model outputs and noises through a scheduler and keeps, for every call of
the model, its timestep, what it would have seen, and the latents after it.
"""

from __future__ import annotations

import importlib
import sys
import types
from itertools import product
from pathlib import Path

import diffusers  # noqa: F401  (before the stand-in for torchsde, which it would look into)
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
sys.modules.setdefault("torchsde", types.ModuleType("torchsde"))  # DPMSolverSDE imports it; we hand it noise

OUT = Path(__file__).parent / "golden.npz"
SHAPE = (1, 2, 2, 2)
SCHEDULERS = {
    "euler": "euler_discrete.EulerDiscrete",
    "euler_ancestral": "euler_ancestral_discrete.EulerAncestralDiscrete",
    "ddim": "ddim.DDIM",
    "dpmpp_2m": "dpmsolver_multistep.DPMSolverMultistep",
    "lcm": "lcm.LCM",
    "heun": "heun_discrete.HeunDiscrete",
    "dpm_2": "k_dpm_2_discrete.KDPM2Discrete",
    "dpm_2_ancestral": "k_dpm_2_ancestral_discrete.KDPM2AncestralDiscrete",
    "lms": "lms_discrete.LMSDiscrete",
    "dpmpp_sde": "dpmsolver_sde.DPMSolverSDE",
    "dpmpp_2m_sde": "dpmsolver_multistep.DPMSolverMultistep",
    "uni_pc": "unipc_multistep.UniPCMultistep",
    "ipndm": "ipndm.IPNDM",
    "uni_pc_bh2": "unipc_multistep.UniPCMultistep",
    "dpmpp_3m_sde": "dpmsolver_multistep.DPMSolverMultistep",
    "ddpm": "ddpm.DDPM",
    "pndm": "pndm.PNDM",
}
# Where diffusers' levels are ours: its steps are even there, and end at the picture. Its pndm extrapolates
# velocities where ours extrapolates noise, and its ddpm starts from a sigma of infinity at zero terminal SNR.
CHOSEN = {
    "ddpm": [
        ("epsilon", "leading", False, "scaled_linear", 4),
        ("epsilon", "leading", False, "linear", 10),
        ("v_prediction", "trailing", False, "scaled_linear", 4),
        ("sample", "trailing", False, "scaled_linear", 5),
    ],
    "pndm": [
        ("epsilon", "leading", False, "scaled_linear", 4),
        ("epsilon", "trailing", False, "linear", 10),
        ("epsilon", "leading", False, "squaredcos_cap_v2", 8),
    ],
    "dpmpp_3m_sde": [
        ("epsilon", "leading", False, "scaled_linear", 6),
        ("epsilon", "linspace", False, "linear", 12),
        ("epsilon", "trailing", False, "squaredcos_cap_v2", 2),
    ],
    "ipndm": [("v_prediction", "trailing", False, "scaled_linear", 9)],
}
NO_SAMPLE = ("euler", "euler_ancestral", "dpm_2", "dpm_2_ancestral", "heun", "lms", "dpmpp_sde")
TWO_CALLS = ("heun", "dpm_2", "dpm_2_ancestral", "dpmpp_sde")
NO_ZERO_SNR = ("heun", "dpm_2", "dpm_2_ancestral")  # there we make the first step of order 1
PLAIN_SIGMAS = (*NO_ZERO_SNR, "lms", "dpmpp_sde", "pndm")  # diffusers has no zero terminal SNR for them
EXTRA: dict[str, dict] = {
    "ddim": {"clip_sample": False},
    "dpmpp_2m_sde": {"algorithm_type": "sde-dpmsolver++"},
    "uni_pc": {"solver_type": "bh1", "solver_order": 3},
    "uni_pc_bh2": {"solver_type": "bh2", "solver_order": 3},
    "dpmpp_3m_sde": {"algorithm_type": "sde-dpmsolver++"},
    "ddpm": {"clip_sample": False},
    "pndm": {"skip_prk_steps": True, "set_alpha_to_one": True},
}
NOISE_SIZES = (*range(1, 41), 1, 100, 3)


def scheduler_class(name: str) -> type:
    module, stem = SCHEDULERS[name].split(".")
    return getattr(importlib.import_module(f"diffusers.schedulers.scheduling_{module}"), f"{stem}Scheduler")


def cases() -> list[tuple]:
    """(sampler, prediction_type, spacing, zero terminal SNR, beta schedule, steps)."""
    found = []
    names = [name for name in SCHEDULERS if name not in CHOSEN]
    grid = product(names, ("epsilon", "v_prediction", "sample"), ("leading", "trailing", "linspace"))
    for name, prediction, spacing in grid:
        if prediction == "sample" and name in NO_SAMPLE:
            continue
        for zero_snr in (False, True):
            if zero_snr and (prediction == "epsilon" or name in PLAIN_SIGMAS):
                continue  # undefined at the first step
            found.append((name, prediction, spacing, zero_snr, "scaled_linear", 4))
    zero = [name for name in names if name not in PLAIN_SIGMAS]
    finite = [name for name in names if name not in NO_ZERO_SNR]
    found += [(name, "v_prediction", "trailing", True, "linear", 7) for name in zero]
    found += [(name, "epsilon", "leading", False, "squaredcos_cap_v2", 12) for name in finite]
    found += [(name, "epsilon", "leading", False, "scaled_linear", 1) for name in names]
    found += [(name, "epsilon", "linspace", False, "linear", 16) for name in names]
    return found + [(name, *case) for name, chosen in CHOSEN.items() for case in chosen]


def case_name(case: tuple) -> str:
    return "-".join(str(part) for part in case)


def make_scheduler(case: tuple):
    name, prediction, spacing, zero_snr, betas, _ = case
    if name == "ipndm":
        return ipndm_on_sigmas(case)
    return scheduler_class(name)(
        beta_schedule=betas,
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction,
        timestep_spacing=spacing,
        steps_offset=1 if spacing == "leading" else 0,
        **({} if name in PLAIN_SIGMAS else {"rescale_betas_zero_snr": zero_snr}),
        **EXTRA.get(name, {}),
    )


def record(case: tuple, outputs: np.ndarray, noises: np.ndarray) -> dict[str, np.ndarray]:
    name = case[0]
    scheduler = make_scheduler(case)
    scheduler.set_timesteps(case[-1])
    if name == "dpmpp_3m_sde":
        return record_k_diffusion(scheduler, outputs, noises)
    in_vp = name in (
        "dpmpp_2m",
        "dpmpp_2m_sde",
        "uni_pc",
        "uni_pc_bh2",
        "ddim",
        "lcm",
        "ipndm",
        "ddpm",
        "pndm",
    )
    start = 1.0 if in_vp else scheduler.init_noise_sigma
    latents = torch.from_numpy(noises[-1]) * start
    kept: dict[str, list] = {"latents": [], "inputs": []}
    if name == "dpmpp_sde":
        scheduler.noise_sampler = BrownianPath(noises)
    for k, t in enumerate(scheduler.timesteps):
        kept["inputs"].append(scheduler.scale_model_input(latents, t).numpy().copy())
        with fixed_noise(noises[k // 2 if name in TWO_CALLS else k]):
            latents = scheduler.step(torch.from_numpy(outputs[k]), t, latents).prev_sample
        kept["latents"].append(latents.numpy().copy())
    stacked = {key: np.stack(value).astype(np.float32) for key, value in kept.items()}
    return {"timesteps": scheduler.timesteps.numpy().astype(np.float64), **stacked}


def record_k_diffusion(scheduler, outputs: np.ndarray, noises: np.ndarray) -> dict[str, np.ndarray]:
    """On the levels of diffusers' scheduler, in its frame: latents of unit variance."""
    sys.modules.setdefault("torchdiffeq", types.SimpleNamespace(odeint=None))
    package = types.ModuleType("k_diffusion")
    package.__path__ = [str(Path(folder) / "k_diffusion") for folder in sys.path]
    sys.modules |= {"k_diffusion": package, "k_diffusion.utils": types.ModuleType("utils")}
    package.utils = sys.modules["k_diffusion.utils"]
    sampling = importlib.import_module("k_diffusion.sampling")
    sigmas, seen = scheduler.sigmas.double(), []
    fresh = iter(torch.from_numpy(noises))

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x - sigma[0] * torch.from_numpy(outputs[len(seen) - 1])

    start = torch.from_numpy(noises[-1]) * (sigmas[0] ** 2 + 1) ** 0.5
    last = sampling.sample_dpmpp_3m_sde(
        model, start, sigmas, disable=True, noise_sampler=lambda *_: next(fresh)
    )
    after = [*seen[1:], last]
    scales = (sigmas**2 + 1) ** 0.5
    return {
        "timesteps": scheduler.timesteps.numpy().astype(np.float64),
        "inputs": np.stack([(x / s).numpy() for x, s in zip(seen, scales[:-1], strict=True)]).astype(
            np.float32
        ),
        "latents": np.stack([(x / s).numpy() for x, s in zip(after, scales[1:], strict=True)]).astype(
            np.float32
        ),
    }


def ipndm_on_sigmas(case: tuple):
    """diffusers' IPNDM has levels of its own: give it those of our case."""

    class OnSigmas(scheduler_class("ipndm")):  # type: ignore[misc]
        def set_timesteps(self, steps: int) -> None:
            euler = make_scheduler(("euler", *case[1:]))
            euler.set_timesteps(steps)
            super().set_timesteps(steps)
            self.timesteps = euler.timesteps
            self.alphas = 1 / (euler.sigmas**2 + 1) ** 0.5
            self.betas = euler.sigmas * self.alphas

    return OnSigmas()


class BrownianPath:
    """Unit noises of one path over sigma, from fresh noises in the order in which they are needed."""

    def __init__(self, noises: np.ndarray):
        self.fresh = iter(torch.from_numpy(noises))
        self.known: dict[float, torch.Tensor] = {}

    def __call__(self, sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
        start, end = float(sigma), float(sigma_next)
        key = round(start, 4)
        before = self.known.get(key)
        middle, walked = before if before is not None else (start, torch.zeros(SHAPE))
        walked = walked + (middle - end) ** 0.5 * next(self.fresh)
        self.known = {key: (end, walked)} if before is None else {}
        return walked / (start - end) ** 0.5


class fixed_noise:
    """diffusers draws noise through randn_tensor: hand it ours."""

    def __init__(self, noise: np.ndarray):
        self.noise = torch.from_numpy(noise)

    def __enter__(self) -> None:
        modules = [sys.modules[scheduler_class(name).__module__] for name in SCHEDULERS]
        self.saved = [(m, m.randn_tensor) for m in dict.fromkeys(modules) if hasattr(m, "randn_tensor")]
        for module, _ in self.saved:
            module.randn_tensor = lambda *args, **kwargs: self.noise

    def __exit__(self, *args: object) -> None:
        for module, original in self.saved:
            module.randn_tensor = original


def levels() -> dict[str, np.ndarray]:
    """diffusers' Karras and exponential spacing over the whole trained range."""
    found = {}
    for kind, steps in product(("karras", "exponential"), (2, 10, 25)):
        scheduler = scheduler_class("euler")(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            timestep_spacing="linspace",
            **{f"use_{kind}_sigmas": True},
        )
        scheduler.set_timesteps(steps)
        found[f"levels/{kind}/{steps}"] = scheduler.sigmas.numpy()
    return found


def singlestep(outputs: np.ndarray, noises: np.ndarray) -> dict[str, np.ndarray]:
    """diffusers' DPM-Solver++(2S) over one step: unit-variance latents at its start, middle and end."""
    module = importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_singlestep")
    found = {}
    for start, end in ((14.6, 0.5), (10.0, 3.6), (3.0, 0.3)):
        scheduler = module.DPMSolverSinglestepScheduler(
            solver_order=2, lower_order_final=True, beta_schedule="scaled_linear"
        )
        scheduler.set_timesteps(2)
        scheduler.order_list = [1, 2]
        scheduler.sigmas = torch.tensor([start, (start * end) ** 0.5, end])
        latents = [torch.from_numpy(noises[-1])]
        for k, t in enumerate(scheduler.timesteps):
            latents.append(scheduler.step(torch.from_numpy(outputs[k]), t, latents[-1]).prev_sample)
        found[f"singlestep/{start}-{end}"] = torch.stack(latents).numpy()
    return found


def torch_noise() -> dict[str, np.ndarray]:
    """What torch's CPU generator gives: raw integers, and one stream read in arrays of many sizes."""
    generator = torch.Generator("cpu").manual_seed(1234)
    found = {}
    for k, shape in enumerate([(1, 4, 8, 8), (1, 3, 5, 7), (2, 9), (4, 4)]):
        found[f"torch-randn-1234/{k}"] = torch.randn(shape, generator=generator).numpy()
    for seed in (0, 2**32 - 1, 2**63 - 1):
        generator = torch.Generator("cpu").manual_seed(seed)
        words = torch.empty(700, dtype=torch.int64).random_(-(2**63), None, generator=generator)
        found[f"torch-words/{seed}"] = words.numpy()
        for kind in ("float32", "float64"):
            generator = torch.Generator("cpu").manual_seed(seed)
            stream = [
                torch.randn(size, generator=generator, dtype=getattr(torch, kind)) for size in NOISE_SIZES
            ]
            found[f"torch-stream/{kind}/{seed}"] = torch.cat(stream).numpy()
    return found


def main() -> None:
    rng = np.random.RandomState(7)
    most = 2 * max(case[-1] for case in cases())
    outputs = rng.standard_normal((most, *SHAPE)).astype(np.float32)
    noises = rng.standard_normal((most, *SHAPE)).astype(np.float32)
    arrays = {"outputs": outputs, "noises": noises}
    for case in cases():
        arrays |= {f"{case_name(case)}/{key}": value for key, value in record(case, outputs, noises).items()}
    arrays |= torch_noise() | levels() | singlestep(outputs, noises)
    np.savez_compressed(OUT, **arrays)
    print(len(cases()), "cases", OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
