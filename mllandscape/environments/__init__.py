"""Packages, environments and locks that are thrown away: a package index, environments with the real pip, Poetry and uv, and how they resolve."""

from mllandscape.environments.environment import Environment, Run
from mllandscape.environments.index import Index, Wheel, serve

__all__ = ["Environment", "Index", "Run", "Wheel", "serve"]
