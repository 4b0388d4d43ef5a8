"""Synthetic faces: a parametric head with exact landmarks, drawn with NumPy and OpenCV alone.

`SyntheticFaces` is a data set like any other. The modules, from random numbers to the picture:
parameters.py (what is random), anatomy.py (curves and landmarks in front view), head.py (the
surface), camera.py (pose and the visible outline), look.py (colours, light), canvas.py and
skin.py (painting), render.py (z-buffer), scene.py and occluders.py (what is behind and in front),
lens.py (the camera's faults), generator.py (the data set), export.py (files).
"""

from ccdn.synthetic_faces.benchmarks import PROTOCOLS, write_300w, write_protocol
from ccdn.synthetic_faces.generator import SyntheticFaces
from ccdn.synthetic_faces.parameters import VERSION

__all__ = ["PROTOCOLS", "VERSION", "SyntheticFaces", "write_300w", "write_protocol"]
