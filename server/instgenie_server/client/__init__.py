"""A client of a server's native routes, for the command line and scripts. It imports no engine."""

from instgenie_server.client.connection import Connection
from instgenie_server.client.edits import RemoteEdit, run_edit
from instgenie_server.client.errors import RemoteError, ReplyError, UnreachableError
from instgenie_server.client.templates import TemplateSettings, list_templates, warm_template
from instgenie_server.client.warming import Warmed, WarmItem, warm_all

__all__ = [
    "Connection",
    "RemoteEdit",
    "RemoteError",
    "ReplyError",
    "TemplateSettings",
    "UnreachableError",
    "WarmItem",
    "Warmed",
    "list_templates",
    "run_edit",
    "warm_all",
    "warm_template",
]
