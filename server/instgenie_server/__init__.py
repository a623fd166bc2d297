"""The server layer of InstGenIE. Importing it does not import torch."""
