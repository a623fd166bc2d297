"""What can go wrong with a server that is asked over HTTP.

OperatorError
 +- RemoteError          any of them; the command line tells them in one line
     +- UnreachableError  no answer, or one that breaks off
     +- ReplyError        an error reply, in the server's words
"""

from __future__ import annotations

from instgenie_server.operator_error import OperatorError


class RemoteError(OperatorError):
    """Any of them."""


class UnreachableError(RemoteError):
    """The server does not answer, or is none of ours."""


class ReplyError(RemoteError):
    """An error reply.

    Attributes:
        code: the word that programs can go by, where the reply has one.
    """

    def __init__(self, status: int, message: str, code: str | None) -> None:
        super().__init__(message)
        self.status, self.code = status, code
