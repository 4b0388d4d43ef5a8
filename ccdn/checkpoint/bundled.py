"""The weights bundled with the package, for trying it out; trained on generated faces alone.

No photographs went into them, so they may be used for anything. Their error on real faces is
measured and documented. Weights trained on 300W could be used for research only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "weights"
DEFAULT_WEIGHTS = FOLDER / "synthetic.safetensors"


@dataclass(frozen=True)
class About:
    """What the bundled weights are.

    generator: version of the training faces; faces: number per epoch; epochs: how many; fresh:
    whether each epoch had its own faces; earlier: how many faces of older versions the training
    before had, from whose weights it started; commit: of the code that trained them. helen_nme:
    inter-ocular, in percent, on the 330 test faces of Helen, in boxes around the true landmarks;
    mean_shape_nme: the same for the mean shape alone.
    """

    config: str
    generator: str
    faces: int
    epochs: int
    fresh: bool
    earlier: dict[str, int]
    date: str
    commit: str
    helen_nme: float
    mean_shape_nme: float

    @property
    def different_faces(self) -> int:
        """How many faces the weights were trained on."""
        own = self.faces * self.epochs if self.fresh else self.faces
        return own + sum(self.earlier.values())

    @property
    def generators(self) -> str:
        """The versions of the generator that drew them."""
        return f"{next(iter(self.earlier))} to {self.generator}" if self.earlier else self.generator

    def __str__(self) -> str:
        return (
            f"a small CCDN trained on {self.different_faces:,} generated faces and no photograph"
            f" (generator {self.generators}); NME on"
            f" the 330 test faces of Helen {self.helen_nme:.2f} % inter-ocular, where the mean"
            f" shape has {self.mean_shape_nme:.2f} % and networks trained on photographs about 3 %"
        )


def about() -> About:
    """Where the bundled weights come from, and how good they are."""
    return About(**json.loads((FOLDER / "synthetic.json").read_text("utf-8")))
