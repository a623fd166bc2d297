"""The command line, `instgenie`."""

from instgenie_server.cli.app import main

__all__ = ["main"]
