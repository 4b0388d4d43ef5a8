"""Training crops made on the network's device: pixels stay there, and a batch is warped at once.

The host only draws the random changes, a few numbers per face, so one core can feed a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ccdn.data import CropDataset, crop_matrix, invert, to_unit, transform_points
from ccdn.data.augment import change_pixels, generator, sample_change
from ccdn.data.crop import compose
from ccdn.runtime.errors import ConfigError

SMALLEST = 0.5  # magnification below which a bilinear warp would skip pixels


class DeviceCrops:
    """The items of a training `CropDataset`, the images made on `device`.

    Draws and landmarks equal the host's; pixels equal them up to the rounding of the warp. Memory:
    about (1.25 reach S)^2 x 3 bytes per face, e.g. 0.3 MB with the paper's crop and augmentation.

    Raises ConfigError for changes that only the host can make: low_resolution, occlusion, and crops
    whose pixels would have to be averaged first.
    """

    def __init__(self, crops: CropDataset, device: torch.device) -> None:
        changes = crops.augmentation
        for name in ("low_resolution", "occlusion"):
            if getattr(changes, name) > 0:
                raise ConfigError(
                    f"data.on_device: augmentation {name} is made on the host only; found"
                    f" {getattr(changes, name)}, expected 0"
                    f" (data.augmentation_fields.{name}=0, or data.on_device=false)"
                )
        if getattr(crops.faces, "fresh", False):
            raise ConfigError(
                "data.on_device: keeps the same faces on the device in all epochs; found"
                " data.synthetic.fresh true, expected false"
            )
        self.crops = crops
        self.device = device
        self.epoch = 0
        regions = [crops.region(index) for index in range(len(crops))]
        side = max(max(pixels.shape[:2]) for pixels, _, _ in regions)
        # Outside a face's own region is black, as outside the picture.
        self._pixels = torch.zeros(len(crops), 3, side, side, dtype=torch.uint8, device=device)
        self._to_crop = np.empty((len(crops), 2, 3))
        self._boxes = []
        lowest = changes.scale_range[0] if changes.is_geometric else 1.0
        for index, (pixels, to_region, box) in enumerate(regions):
            height, width = pixels.shape[:2]
            own = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
            self._pixels[index, :, :height, :width] = own.to(device)
            self._to_crop[index] = invert(to_region)
            self._boxes.append(box)
            factor = lowest * crops.size / (box[2] - box[0]) / to_region[0, 0]
            if factor < SMALLEST:
                raise ConfigError(
                    f"data.on_device: crops may be {factor:.2f} of the resident pixels' size,"
                    f" expected {SMALLEST:g} or more; a smaller range of scales, or"
                    " data.on_device=false"
                )

    def __len__(self) -> int:
        return len(self.crops)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose random numbers are drawn."""
        self.epoch = epoch

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """image: uint8 (B, 3, S, S) on the device; landmarks: float32 (B, L, 2), on the host."""
        crops, size = self.crops, self.crops.size
        matrices, tables, landmarks = [], [], []
        for index in indices:
            face = crops.faces.face(index)
            drawn = sample_change(crops.augmentation, generator(crops.seed, self.epoch, index))
            matrix = crop_matrix(
                self._boxes[index], size, drawn.rotation, drawn.scale, drawn.shift, drawn.flip
            )
            moved = to_unit(transform_points(matrix, face.landmarks.astype(np.float64)), size)
            if drawn.flip:
                moved = moved[list(crops.layout.flip or ())]
            landmarks.append(moved.astype(np.float32))
            matrices.append(invert(compose(matrix, self._to_crop[index])))
            tables.append(change_pixels(_RAMP.copy(), drawn)[0])
        chosen = torch.as_tensor(np.asarray(indices), device=self.device)
        found = warp(self._pixels[chosen], torch.from_numpy(np.stack(matrices)), size)
        table = torch.from_numpy(np.stack(tables)).to(self.device).transpose(1, 2)  # [B, 3, 256]
        found = table.gather(2, found.flatten(2).long()).view_as(found)
        return {"image": found, "landmarks": torch.from_numpy(np.stack(landmarks))}


def warp(pixels: Tensor, matrices: Tensor, size: int) -> Tensor:
    """Crops uint8 (B, 3, size, size) of uint8 pictures (B, 3, H, W), bilinear, black outside.

    matrices: (B, 2, 3), from crop pixels to picture pixels, pixel centres at integers.
    """
    height, width = pixels.shape[2:]
    # From pixels to the [-1, 1] of affine_grid and grid_sample: u = (2 x + 1) / n - 1.
    into = torch.tensor([[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]])
    back = torch.tensor([[size / 2, 0, (size - 1) / 2], [0, size / 2, (size - 1) / 2], [0, 0, 1]])
    bottom = torch.tensor([0.0, 0.0, 1.0]).expand(len(matrices), 1, 3)
    whole = torch.cat([matrices.double(), bottom.double()], 1)
    theta = (into.double() @ whole @ back.double())[:, :2].to(pixels.device, torch.float32)
    grid = F.affine_grid(theta, [len(pixels), 3, size, size], align_corners=False)
    found = F.grid_sample(pixels.float(), grid, padding_mode="zeros", align_corners=False)
    return found.add_(0.5).clamp_(0, 255).to(torch.uint8)


_RAMP = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)  # every value once
