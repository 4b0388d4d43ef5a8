"""The CCDN network and its objective."""

from ccdn.models.network import CCDN, Output, build_model
from ccdn.models.objective import LEVELS, Objective, objective

__all__ = ["CCDN", "LEVELS", "Objective", "Output", "build_model", "objective"]
