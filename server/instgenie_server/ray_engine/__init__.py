"""Replicas beyond one machine, as actors of a Ray cluster. Ray is imported in here alone."""
