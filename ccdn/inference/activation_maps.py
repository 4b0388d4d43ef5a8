"""Face activation maps (the paper's Fig. 8): where each excitation looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ccdn.data.crop import from_unit

if TYPE_CHECKING:
    from torch import Tensor

    from ccdn.data import Layout
    from ccdn.models import CCDN


def activation_maps(model: CCDN, crops: Tensor) -> Tensor:
    """The class activation map of every coordinate, (B, P, L, 2, H, W), of crops (B, 3, S, S).

    The regressor is linear on GAP(X_G^p): coordinate c is its bias plus the sum over p of the mean
    over the map of M_c^p = sum over d of w_c,p,d X_G^p,d (Zhou et al. 2016). So the maps' means,
    summed over p, and the bias are the landmarks (of `head: sum`, the fused head's share of them).
    With `head: integral` the maps also include each position's share in moving the landmark from
    the prior's mean, which takes the place of the bias (`IntegralHead.shifts`): again their means
    are the landmarks. The Baseline has P = 1 and the maps of T. The model keeps its mode.
    """
    import torch

    maps = model.maps(crops).excited  # [B, P, D, H, W]
    excitations, channels = maps.shape[1:3]
    weight = model.head.weight.view(model.points, 2, excitations, channels)
    found = torch.einsum("bpdhw,lcpd->bplchw", maps, weight)
    head = model.head_integral
    if head is None:
        return found
    shifts = head.shifts(head.logits(maps))
    weight = head.weight.view(model.points, excitations, channels)
    logits = torch.einsum("bpdhw,lpd->bplhw", maps.relu(), weight)
    positions = maps.shape[3] * maps.shape[4]
    return found + positions * logits.unsqueeze(3) * shifts.unsqueeze(1)


def face_maps(maps: Tensor) -> Tensor:
    """One map for each excitation, (B, P, H, W): the mean magnitude over all coordinates' maps.

    maps: (B, P, L, 2, H, W). Each coordinate's map is taken relative to its own mean over the
    positions, because a constant says nothing about the place. Signs are dropped, because what
    pulls one landmark left pulls another one right, and the two would cancel.
    """
    return (maps - maps.mean((4, 5), keepdim=True)).abs().mean((2, 3))


def draw_map(crop: np.ndarray, heat: np.ndarray, strength: float = 0.55) -> np.ndarray:
    """A map (H, W) as colours over a crop, uint8 (S, S, 3) RGB: blue lowest, red highest."""
    import cv2

    side = crop.shape[0]
    large = cv2.resize(heat.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    low, high = float(large.min()), float(large.max())
    scaled = (large - low) / max(high - low, 1e-12)
    colors = cv2.applyColorMap(np.round(255 * scaled).astype(np.uint8), cv2.COLORMAP_JET)
    blend = (1 - strength) * crop + strength * colors[:, :, ::-1]
    return np.round(blend).clip(0, 255).astype(np.uint8)


def activation_sheet(
    model: CCDN, crops: np.ndarray, shown: Sequence[np.ndarray], layout: Layout, name: str = ""
) -> np.ndarray:
    """A row for each face: its landmarks, a map for each excitation, and, if there are several, the
    mean of these maps; uint8 RGB.

    crops: uint8 (B, S, S, 3), the network's input; shown: the same crops, square, at the size to
    draw them. name: of the network, for the first caption.
    """
    import torch

    from ccdn.data.drawing import contact_sheet, draw_landmarks

    device = next(model.parameters()).device
    batch = torch.from_numpy(crops).permute(0, 3, 1, 2).to(device).float().div_(255)
    with torch.no_grad():
        heat = face_maps(activation_maps(model, batch)).cpu().numpy()
        landmarks = model(batch).landmarks.cpu().numpy()
    pictures: list[np.ndarray] = []
    excitations = heat.shape[1]
    for picture, maps, points in zip(shown, heat, landmarks, strict=True):
        pictures.append(draw_landmarks(picture, from_unit(points, picture.shape[0]), layout))
        pictures += [draw_map(picture, single) for single in maps]
        if excitations > 1:
            pictures.append(draw_map(picture, maps.mean(0)))
    captions = [name or "landmarks", *(f"excitation {p + 1}" for p in range(excitations))]
    captions += ["mean"] if excitations > 1 else []
    return contact_sheet(pictures, len(captions), captions * len(shown))
