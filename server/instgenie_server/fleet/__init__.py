"""All replicas of a server as one: edits go where they are done first."""
