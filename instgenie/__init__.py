"""InstGenIE: masked image edits with cached activations of what is not edited."""

__version__ = "0.1.0"
