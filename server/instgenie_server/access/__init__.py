"""Who may call, how often, and what may wait."""
