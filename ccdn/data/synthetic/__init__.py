"""Synthetic faces: a parametric head with exact landmarks, drawn with NumPy and OpenCV alone."""

from ccdn.data.synthetic.generator import SyntheticFaces
from ccdn.data.synthetic.parameters import VERSION

__all__ = ["VERSION", "SyntheticFaces"]
