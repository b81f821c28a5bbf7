"""Record what diffusers' schedulers do into `golden.npz`: `python tests/diffusion/make_golden.py`.

Each case feeds the same recorded model outputs and noises through a scheduler and keeps its timesteps,
its scaled input at every step and the latents after it.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
)

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

OUT = Path(__file__).parent / "golden.npz"
SHAPE = (1, 2, 2, 2)
KINDS = {
    "euler": EulerDiscreteScheduler,
    "euler_ancestral": EulerAncestralDiscreteScheduler,
    "ddim": DDIMScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "lcm": LCMScheduler,
}
NO_SAMPLE = ("euler", "euler_ancestral")  # diffusers does not implement it there
EXTRA = {"ddim": {"clip_sample": False}}
NOISE_SIZES = (*range(1, 41), 1, 100, 3)


def cases() -> list[tuple]:
    """(sampler, prediction_type, spacing, zero terminal SNR, beta schedule, steps)."""
    found = []
    grid = product(KINDS, ("epsilon", "v_prediction", "sample"), ("leading", "trailing", "linspace"))
    for name, prediction, spacing in grid:
        if prediction == "sample" and name in NO_SAMPLE:
            continue
        for zero_snr in (False, True):
            if zero_snr and prediction == "epsilon":
                continue  # undefined at the first step
            found.append((name, prediction, spacing, zero_snr, "scaled_linear", 4))
    found += [(name, "v_prediction", "trailing", True, "linear", 7) for name in KINDS]
    found += [(name, "epsilon", "leading", False, "squaredcos_cap_v2", 12) for name in KINDS]
    found += [(name, "epsilon", "leading", False, "scaled_linear", 1) for name in KINDS]
    found += [(name, "epsilon", "linspace", False, "linear", 16) for name in KINDS]
    return found


def case_name(case: tuple) -> str:
    return "-".join(str(part) for part in case)


def record(case: tuple, outputs: np.ndarray, noises: np.ndarray) -> dict[str, np.ndarray]:
    name, prediction, spacing, zero_snr, betas, steps = case
    scheduler = KINDS[name](
        beta_schedule=betas,
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction,
        timestep_spacing=spacing,
        rescale_betas_zero_snr=zero_snr,
        steps_offset=1 if spacing == "leading" else 0,
        **EXTRA.get(name, {}),
    )
    scheduler.set_timesteps(steps)
    latents = torch.from_numpy(noises[-1]) * scheduler.init_noise_sigma
    kept: dict[str, list] = {"latents": []}
    for i, t in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(latents, t)
        if not torch.equal(scaled, latents):
            kept.setdefault("scaled", []).append(scaled.numpy().copy())
        with fixed_noise(noises[i]):
            latents = scheduler.step(torch.from_numpy(outputs[i]), t, latents).prev_sample
        kept["latents"].append(latents.numpy().copy())
    stacked = {key: np.stack(value).astype(np.float32) for key, value in kept.items()}
    return {"timesteps": scheduler.timesteps.numpy().astype(np.float64), **stacked}


class fixed_noise:
    """diffusers draws noise through randn_tensor: hand it ours."""

    def __init__(self, noise: np.ndarray):
        self.noise = torch.from_numpy(noise)

    def __enter__(self) -> None:
        from diffusers.schedulers import scheduling_euler_ancestral_discrete as ancestral
        from diffusers.schedulers import scheduling_lcm as lcm

        self.saved = [(module, module.randn_tensor) for module in (ancestral, lcm)]
        for module, _ in self.saved:
            module.randn_tensor = lambda *args, **kwargs: self.noise

    def __exit__(self, *args: object) -> None:
        for module, original in self.saved:
            module.randn_tensor = original


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
    most = max(case[-1] for case in cases())
    outputs = rng.standard_normal((most, *SHAPE)).astype(np.float32)
    noises = rng.standard_normal((most, *SHAPE)).astype(np.float32)
    arrays = {"outputs": outputs, "noises": noises}
    for case in cases():
        arrays |= {f"{case_name(case)}/{key}": value for key, value in record(case, outputs, noises).items()}
    arrays |= torch_noise()
    np.savez_compressed(OUT, **arrays)
    print(len(cases()), "cases", OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
