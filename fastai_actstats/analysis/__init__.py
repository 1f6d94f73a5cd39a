"""A record is judged; numbers only. The rules are registered in this order."""
from . import activations, gradients, weights, channels  # noqa: F401
