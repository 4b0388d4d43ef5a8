"""What an ONNX file of `ccdn export` says of itself: all that prediction needs beside its graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ccdn.checkpoint.errors import CheckpointError
from ccdn.data import generic_layout
from ccdn.inference.network import Curve, Traits

FORMAT = "ccdn-onnx-1"
INPUT, LANDMARKS, SPREAD = "crops", "landmarks", "spread"
# In words, for programs without ccdn.
CONVENTION = (
    "A face's box x0 y0 x1 y1 covers it from brows to chin, in pixels whose centres are at whole"
    " numbers. The crop is the square about the box's centre whose side is (1 + margin) times the"
    " box's longer side. A landmark u in [0, 1] is at pixel u * S - 0.5 of the crop, and at left +"
    " u * side in the picture."
)


def metadata(traits: Traits, model: dict[str, Any]) -> dict[str, str]:
    """The file's metadata; model: the `model` section of the configuration."""
    flip = generic_layout(traits.points).flip
    error = "spread" if traits.spread else "mirror"
    return {
        "ccdn.format": FORMAT,
        "ccdn.config": json.dumps(model),
        "ccdn.margin": json.dumps(traits.margin),
        "ccdn.mean_shape": json.dumps(np.asarray(traits.mean_shape, np.float64).tolist()),
        "ccdn.flip": json.dumps(None if flip is None else list(flip)),
        "ccdn.score": json.dumps({"error": error, **traits.curve._asdict()}),
        "ccdn.convention": CONVENTION,
        "ccdn.input": f"{INPUT}: float32 (batch, 3, S, S), RGB in [0, 1]",
        "ccdn.output": f"{LANDMARKS}: (batch, L, 2), x then y, in [0, 1] of the crop"
        + (f"; {SPREAD}: (batch, L), the error expected of each point" if traits.spread else ""),
    }


def traits_of(found: Mapping[str, str], path: Path) -> Traits:
    """What metadata say of the network. Raises CheckpointError, naming the file, for others."""
    if found.get("ccdn.format") != FORMAT:
        kind = "an older one" if "ccdn.config" in found else "another kind of ONNX file"
        raise CheckpointError(
            f"{path}: expected a file of ccdn export ({FORMAT}), found {kind}; `ccdn export` writes"
            " it from the checkpoint"
        )
    try:
        model, score = json.loads(found["ccdn.config"]), json.loads(found["ccdn.score"])
        curve = Curve(float(score["half"]), float(score["power"]))
        traits = Traits(
            int(model["points"]),
            int(model["input_size"]),
            float(json.loads(found["ccdn.margin"])),
            bool(model["spread"]),
            curve,
            np.array(json.loads(found["ccdn.mean_shape"]), np.float32),
        )
        numbers = np.array([traits.margin, *traits.curve, *traits.mean_shape.flat])
        if not (np.isfinite(numbers).all() and traits.mean_shape.shape == (traits.points, 2)):
            raise ValueError("numbers that are not finite, or a mean shape of another size")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        what = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path}: its metadata are damaged ({what})") from error
    return traits
