"""edgedit: tiny one-step diffusion transformers, from a teacher to the edge."""

__version__ = "0.1.0"
