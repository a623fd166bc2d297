"""A replica in a process of its own: how the server starts it, or finds it, and holds on to it over restarts."""
