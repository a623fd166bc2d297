"""Stores over the tiers, and their interface."""
