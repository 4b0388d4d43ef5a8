"""Face activation maps (the paper's Fig. 8): `python -m ccdn.activations PHOTO --weights W`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ccdn.cli.command import command
from ccdn.data.crop import from_unit
from ccdn.runtime.numbers import is_whole
from ccdn.runtime.progress import counted

if TYPE_CHECKING:
    from torch import Tensor

    from ccdn.data import Layout
    from ccdn.models import CCDN

EXAMPLES = """\
examples:
  python -m ccdn.activations photo.jpg --weights runs/a/last.pt       every face that is detected
  python -m ccdn.activations photo.jpg --weights runs/a/last.pt --box 40,60,240,260
  python -m ccdn.activations photo.jpg --weights runs/a/last.pt --out maps.png --side 320

It writes one PNG (default: PHOTO_activations.png in this folder) with a row for each face: the
crop with its landmarks, then one map for each excitation, and their mean. Red is where most of what
moves the landmarks away from the network's bias comes from, in each map on its own scale.

exit codes: 0 done, 2 wrong usage, weights or picture, 3 no face found, 130 interrupted
"""


def activation_maps(model: CCDN, crops: Tensor) -> Tensor:
    """The class activation map of every coordinate, (B, P, L, 2, H, W), of crops (B, 3, S, S).

    The regressor is linear on GAP(X_G^p): coordinate c is its bias plus the sum over p of the mean
    over the map of M_c^p = sum over d of w_c,p,d X_G^p,d (Zhou et al. 2016). So the maps' means,
    summed over p, and the bias are the landmarks (of `head: sum`, the fused head's share of them).
    Of `head: integral` the maps also have each position's share in moving the landmark from the
    prior's mean, which takes the bias's place (`IntegralHead.shifts`): their means are the
    landmarks as well. The Baseline has P = 1 and the maps of T. The model is used in the mode it is
    in.
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
    """One map for each excitation, (B, P, H, W): the sizes of those of all coordinates, averaged.

    maps: (B, P, L, 2, H, W). Each coordinate's map is measured from its own mean over the face's
    positions, since what is the same everywhere says nothing about where; signs are dropped, since
    what pulls one landmark left pulls another one right, and an average of both would be empty.
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
    """A row for each face: its landmarks, a map for each excitation, and their mean where there are
    several; uint8 RGB.

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


@command("ccdn.activations", ValueError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _parser().parse_args(arguments)
    from ccdn.predict import NoFace

    out = options.out or f"{Path(options.photo).stem}_activations.png"
    try:
        faces = _run(options, Path(out))
    except NoFace as error:
        print(f"ccdn.activations: {error}", file=sys.stderr)
        return 3
    print(f"{options.photo}: {counted(faces, 'face')}; written: {out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    from ccdn.predict import parse_box

    parser = argparse.ArgumentParser(
        prog="python -m ccdn.activations",
        description="Draw where a network looks: an activation map for each excitation.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("photo", metavar="PHOTO")
    parser.add_argument("--weights", required=True, metavar="FILE", help="a checkpoint")
    parser.add_argument(
        "--box", type=parse_box, metavar="X0,Y0,X1,Y1", help="the face's box, in pixels"
    )
    parser.add_argument("--out", metavar="FILE", help="the picture to write")
    parser.add_argument("--side", type=_side, default=192, metavar="N", help="pixels of a map")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    return parser


def _side(text: str) -> int:
    if not is_whole(text) or not 32 <= int(text) <= 2048:
        raise argparse.ArgumentTypeError(f"expected a whole number from 32 to 2048, found {text!r}")
    return int(text)


def _run(options: argparse.Namespace, out: Path) -> int:
    from ccdn.data import crop_image, crop_matrix, detect_faces, read_image, square_box
    from ccdn.data.drawing import write_picture
    from ccdn.inference.predictor import Predictor, check_box
    from ccdn.predict import NoFace

    photo = Path(options.photo)
    predictor = Predictor(options.weights, options.device)
    image = read_image(photo)
    if options.box is not None:
        check_box(photo, options.box, image)
    boxes = detect_faces(image) if options.box is None else [options.box]
    if not boxes:
        raise NoFace(f"{photo}: the detector found no face; --box x0,y0,x1,y1 tells where one is")
    size, side = predictor.config.model.input_size, options.side
    squares = [square_box(box, predictor.config.data.margin) for box in boxes]
    crops = np.stack([crop_image(image, crop_matrix(square, size), size) for square in squares])
    shown = [crop_image(image, crop_matrix(square, side), side) for square in squares]
    sheet = activation_sheet(predictor.model, crops, shown, predictor.layout)
    write_picture(out, sheet)
    return len(shown)


if __name__ == "__main__":
    sys.exit(main())
