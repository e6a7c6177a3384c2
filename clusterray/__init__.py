"""ClusterRay turns a handful of machines into one POV-Ray renderer."""

__version__ = "0.1.0"
