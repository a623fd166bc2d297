"""Which replica an edit goes to, decided without I/O. See README.md."""
