"""The stages of a build, and how much of the work each is expected to be."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .progress import Progress

# seconds of Stable Diffusion 1.5 on two cores; only ratios count
_EXPORT = {"text_encoder": 8.0, "unet": 50.0, "vae_decoder": 25.0}
_QUANTIZE = {"text_encoder": 12.0, "unet": 110.0, "vae_decoder": 30.0}
_CONVERT = {"text_encoder": 1.0, "unet": 10.0, "vae_decoder": 1.0}
_OTHER_ROLE = 20.0


def expected_stages(roles: Sequence[str], precision: str, evaluate: bool) -> list[tuple[str, float]]:
    """(name, share of the work) of every stage, in order."""
    found = [("read source", 4.0)]
    found += [(f"export {role}", _EXPORT.get(role, _OTHER_ROLE)) for role in roles]
    if precision == "int8":
        found.append(("record", 105.0))
    verb, costs = ("quantize", _QUANTIZE) if precision == "int8" else ("convert", _CONVERT)
    found += [(f"{verb} {role}", costs.get(role, _OTHER_ROLE)) for role in roles]
    if evaluate:
        found += [("draw float", 80.0), ("draw pack", 40.0), ("measure", 120.0)]
    return found


def counter(progress: Progress, total: int) -> Callable[[], None]:
    """A function that tells progress of one more of so many."""
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress.advance(min(1.0, done / max(1, total)))

    return advance
