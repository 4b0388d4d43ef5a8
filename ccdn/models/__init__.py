"""The CCDN network and its objective."""

from .network import CCDN, Output, build_model
from .objective import LEVELS, Objective, objective

__all__ = ["CCDN", "LEVELS", "Objective", "Output", "build_model", "objective"]
