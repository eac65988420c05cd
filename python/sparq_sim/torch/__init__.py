"""The torch face of sparq_sim: the only package here that imports torch."""

from sparq_sim.torch.bridge import from_numpy, to_numpy

__all__ = ["from_numpy", "to_numpy"]
