"""Ways to break Purser's promises, each of which the simulation must notice: what survives is a hole in its checks."""

from tests.simulation.sabotages import control_plane, sidecar
from tests.simulation.sabotages.registry import SABOTAGES, Sabotage, sabotaged

__all__ = ["SABOTAGES", "Sabotage", "control_plane", "sabotaged", "sidecar"]
