"""A replica: one device that edits, in this process or in one of its own (`python -m instgenie.replica`)."""
