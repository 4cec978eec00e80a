"""Shape vocabulary. Axis names used everywhere: atoms pairs structures members features.

Shapes are checked in the tests by jaxtyping's import hook and beartype, never at run time.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["Bool", "Float", "Int", "Tensor"]
