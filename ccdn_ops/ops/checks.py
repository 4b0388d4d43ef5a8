"""Argument checks that the operators share; every message names what was found and expected."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_tensor(operator: str, name: str, tensor: Tensor) -> None:
    """Raise TypeError unless this is a dense tensor of a floating dtype."""
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"ccdn_ops.{operator}: {name} is a {type(tensor).__name__}; expected a torch.Tensor"
        )
    if tensor.is_nested or tensor.layout is not torch.strided:
        found = "a nested tensor" if tensor.is_nested else f"of layout {tensor.layout}"
        raise TypeError(f"ccdn_ops.{operator}: {name} is {found}; expected a dense tensor")
    if tensor.dtype not in FLOATING:
        raise TypeError(
            f"ccdn_ops.{operator}: {name} has dtype {tensor.dtype}; "
            "expected torch.float32, float64, bfloat16 or float16"
        )


def check_map(operator: str, name: str, x: Tensor, ranks: tuple[int, ...] = (3, 4)) -> None:
    """Raise unless x is (B, D, H, W), or (B, D, N) where rank 3 is allowed; only B may be empty."""
    check_tensor(operator, name, x)
    expected = " or ".join({3: "(B, D, N)", 4: "(B, D, H, W)"}[rank] for rank in ranks[::-1])
    if x.dim() not in ranks:
        raise ValueError(
            f"ccdn_ops.{operator}: {name} has shape {tuple(x.shape)}; expected {expected}"
        )
    if any(size < 1 for size in x.shape[1:]):
        raise ValueError(
            f"ccdn_ops.{operator}: {name} has shape {tuple(x.shape)}; "
            f"expected {expected} with at least one channel and one position"
        )


def check_matrices(operator: str, name: str, tensor: Tensor) -> None:
    """Raise unless this is (B, D, D); only B may be empty."""
    check_tensor(operator, name, tensor)
    if tensor.dim() != 3 or tensor.shape[1] != tensor.shape[2] or tensor.shape[1] < 1:
        raise ValueError(
            f"ccdn_ops.{operator}: {name} has shape {tuple(tensor.shape)}; "
            "expected (B, D, D) with D >= 1"
        )


def check_shape(
    operator: str, name: str, tensor: Tensor, expected: tuple[int, ...], meaning: str
) -> None:
    """Raise ValueError for any other than the expected shape, which `meaning` spells in symbols."""
    check_tensor(operator, name, tensor)
    if tuple(tensor.shape) != tuple(expected):
        raise ValueError(
            f"ccdn_ops.{operator}: {name} has shape {tuple(tensor.shape)}; "
            f"expected {meaning} = {tuple(expected)}"
        )


def check_device(operator: str, **tensors: Tensor | None) -> None:
    """Raise ValueError unless all tensors are on one device."""
    devices = {name: t.device for name, t in tensors.items() if t is not None}
    if len(set(devices.values())) > 1:
        found = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"ccdn_ops.{operator}: expected all tensors on one device, found {found}")


def check_sizes(operator: str, **sizes: int) -> None:
    """Raise TypeError or ValueError for anything but integers of at least 1."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(
                f"ccdn_ops.{operator}: {name} is {size!r}, a {type(size).__name__}; "
                "expected an int from 1 on"
            )
        if size < 1:
            raise ValueError(f"ccdn_ops.{operator}: {name} is {size}; expected an int from 1 on")


def check_iterations(operator: str, iterations: int) -> None:
    """Raise TypeError or ValueError for anything but an int from 1 to 10."""
    if isinstance(iterations, bool) or not isinstance(iterations, int):
        raise TypeError(
            f"ccdn_ops.{operator}: iterations is {iterations!r}, a {type(iterations).__name__}; "
            "expected an int from 1 to 10"
        )
    if not 1 <= iterations <= 10:
        raise ValueError(
            f"ccdn_ops.{operator}: iterations is {iterations}; expected an int from 1 to 10"
        )
