"""Where records are kept: their folder, the cache service that the server starts, and its metrics."""
