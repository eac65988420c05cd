"""identify: which spec made y of x."""

from sparq_sim.identify.apart import Apart, Input
from sparq_sim.identify.identify import identify, identify_sources
from sparq_sim.identify.result import Group, Identification, Match, Near

__all__ = ["Apart", "Group", "Identification", "Input", "Match", "Near", "identify", "identify_sources"]
