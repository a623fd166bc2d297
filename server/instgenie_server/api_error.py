"""Errors as clients see them: `{"error": {"message", "type", "param", "code"}}` with an HTTP status.

ApiError
 +- invalid()        400: the request is at fault; `param` names the field
 +- unauthorized()   401: no key, or an unknown one
 +- not_found()      404
 +- too_large()      413: more bytes or parts than allowed
 +- busy()           429: too much waits, or too many requests of this key; with retry-after
 +- failed()         500: ours
 +- unavailable()    503: starting, draining or without a replica

The OpenAI SDK repeats 408, 409, 429 and 5xx on its own, uploading everything again; errors that would repeat carry
`x-should-retry: false`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(eq=False)
class ApiError(Exception):
    """An error reply.

    Attributes:
        type: `invalid_request_error`, `authentication_error`, `rate_limit_error` or `server_error`.
        param: the request's field that is at fault.
        code: a word that programs can go by.
        retry_after: seconds after which the request may succeed; None where repeating it is in vain.
    """

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    retry_after: float | None = None

    def __post_init__(self) -> None:
        super().__init__(self.message)

    def body(self) -> dict[str, Any]:
        """The JSON object of the reply."""
        fields = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": fields}

    def headers(self) -> dict[str, str]:
        """`retry-after` where it helps to repeat, `x-should-retry: false` where it does not."""
        if self.retry_after is None:
            return {"x-should-retry": "false"}
        whole_seconds = max(1, math.ceil(self.retry_after))
        return {"retry-after": str(whole_seconds), "retry-after-ms": str(max(1, round(1000 * self.retry_after)))}


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400."""
    return ApiError(400, message, "invalid_request_error", param, code)


def unauthorized(message: str) -> ApiError:
    """401."""
    return ApiError(401, message, "authentication_error", None, "invalid_api_key")


def not_found(message: str) -> ApiError:
    """404."""
    return ApiError(404, message, "invalid_request_error", None, "not_found")


def too_large(message: str, param: str | None = None) -> ApiError:
    """413."""
    return ApiError(413, message, "invalid_request_error", param, "too_large")


def busy(message: str, retry_after: float, code: str = "overloaded") -> ApiError:
    """429."""
    return ApiError(429, message, "rate_limit_error", None, code, retry_after)


def failed(message: str) -> ApiError:
    """500."""
    return ApiError(500, message, "server_error", None, "edit_failed")


def unavailable(message: str, retry_after: float = 1.0) -> ApiError:
    """503."""
    return ApiError(503, message, "server_error", None, "unavailable", retry_after)
