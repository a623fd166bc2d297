"""Where records are kept: the arena, LMDB, an object store."""
