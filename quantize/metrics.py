"""How far two arrays or two pictures are apart."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

_WINDOW_SIGMA = 1.5
_WINDOW_RADIUS = 5
_K1, _K2 = 0.01, 0.03
INFINITE_DB = 200.0  # stands in for "equal", so that results stay valid JSON


def sqnr_db(reference: np.ndarray, got: np.ndarray) -> float:
    """Signal to quantization noise ratio in dB: energy of the reference over energy of the difference.

    Args:
        reference, got: arrays of one shape.
    Returns:
        dB, higher is closer; 200 for equal arrays.
    """
    reference, got = reference.astype(np.float64), got.astype(np.float64)
    noise = float(np.square(reference - got).sum())
    return ratio_db(float(np.square(reference).sum()), noise)


def ratio_db(signal: float, noise: float) -> float:
    """10 log10(signal / noise), kept within +-200 so that it stays a number."""
    if noise <= 0:
        return INFINITE_DB
    if signal <= 0:
        return -INFINITE_DB
    return float(np.clip(10 * np.log10(signal / noise), -INFINITE_DB, INFINITE_DB))


def relative_error(reference: np.ndarray, got: np.ndarray) -> float:
    """Largest difference over largest magnitude of the reference (0 / 0 counts as 0)."""
    largest = float(np.abs(reference).max(initial=0.0))
    worst = float(np.abs(reference.astype(np.float64) - got).max(initial=0.0))
    return worst / largest if largest > 0 else (0.0 if worst == 0 else float("inf"))


def psnr_db(reference: np.ndarray, got: np.ndarray) -> float:
    """Peak signal to noise ratio of two uint8 pictures of one shape, in dB; 200 when equal."""
    _check_pictures(reference, got)
    mse = float(np.square(reference.astype(np.float64) - got).mean())
    return ratio_db(255.0**2, mse)


def ssim(reference: np.ndarray, got: np.ndarray) -> float:
    """Mean structural similarity of two uint8 pictures, averaged over the colours.

    Gaussian window of sigma 1.5 (11 x 11), K1 0.01, K2 0.03, population covariance; only windows that
    lie wholly inside count.

    Args:
        reference, got: (h, w, c) uint8, both sides at least 11.
    Returns:
        -1 to 1; 1 for equal pictures.
    Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity".
    """
    _check_pictures(reference, got)
    if min(reference.shape[:2]) < 2 * _WINDOW_RADIUS + 1:
        raise ValueError(f"pictures of {reference.shape[:2]} are smaller than the 11 x 11 window")
    x, y = reference.astype(np.float64), got.astype(np.float64)
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    cov = _blur(x * y) - mean_x * mean_y
    c1, c2 = (_K1 * 255) ** 2, (_K2 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * cov + c2) / (var_x + var_y + c2)
    return float((luminance * structure).mean())


def _check_pictures(reference: np.ndarray, got: np.ndarray) -> None:
    if reference.shape != got.shape or reference.ndim != 3:
        raise ValueError(f"pictures must be (h, w, c) of one shape, not {reference.shape} and {got.shape}")
    if reference.dtype != np.uint8 or got.dtype != np.uint8:
        raise ValueError(f"pictures must be uint8, not {reference.dtype} and {got.dtype}")


def _blur(x: np.ndarray) -> np.ndarray:
    """Gaussian mean of each window wholly inside: (h, w, c) -> (h - 10, w - 10, c)."""
    offsets = np.arange(-_WINDOW_RADIUS, _WINDOW_RADIUS + 1)
    kernel = np.exp(-0.5 * (offsets / _WINDOW_SIGMA) ** 2)
    kernel /= kernel.sum()
    width = 2 * _WINDOW_RADIUS + 1
    for axis in (0, 1):
        windows = np.lib.stride_tricks.sliding_window_view(x, width, axis=axis)
        x = windows @ kernel
    return x


def noise_ratio(reference: Iterable[np.ndarray], got: Iterable[np.ndarray]) -> float:
    """Energy of all differences over energy of all reference outputs."""
    noise = signal = 0.0
    for want, have in zip(reference, got, strict=True):
        noise += float(np.square(want.astype(np.float64) - have).sum())
        signal += float(np.square(want.astype(np.float64)).sum())
    return noise / signal if signal > 0 else 0.0
