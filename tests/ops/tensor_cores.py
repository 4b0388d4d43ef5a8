"""How tensor cores round products of TF32, which neither the interpreter nor a CPU does."""

from __future__ import annotations

import numpy as np


def round_to_tf32(x: np.ndarray) -> np.ndarray:
    """cvt.rna.tf32: ten bits behind the point, halves away from zero."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view(np.float32)


def round_towards_zero(x: np.ndarray) -> np.ndarray:
    """float64 to float32 as accumulators of tensor cores round."""
    nearest = x.astype(np.float32)
    away = np.abs(nearest.astype(np.float64)) > np.abs(x)
    return np.where(away, np.nextafter(nearest, np.float32(0)), nearest)


def tensor_core_product(a: np.ndarray, b: np.ndarray, total: np.ndarray) -> np.ndarray:
    """a b + total of TF32 numbers: eight products at a time, summed exactly, then rounded."""
    for k in range(0, a.shape[1], 8):
        part = a[:, k : k + 8].astype(np.float64) @ b[k : k + 8].astype(np.float64)
        total = round_towards_zero(total.astype(np.float64) + part)
    return total


def tf32_dot(terms: int, a: np.ndarray, b: np.ndarray, d: np.ndarray) -> np.ndarray:
    """What Triton compiles tl.dot with "tf32" (one term) or "tf32x3" (three) to."""
    big_a, big_b = round_to_tf32(a), round_to_tf32(b)
    total = np.zeros_like(d)
    if terms == 3:
        total = tensor_core_product(round_to_tf32(a - big_a), big_b, total)
        total = tensor_core_product(big_a, round_to_tf32(b - big_b), total)
    return d + tensor_core_product(big_a, big_b, total)
