"""The side of those who use a cache service."""
