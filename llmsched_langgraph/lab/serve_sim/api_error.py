"""Knows how an OpenAI-compatible server says no: a status, a message, a type and a code.

Knows nothing of what was asked.
"""

from __future__ import annotations

from collections.abc import Mapping

JsonObject = dict[str, object]


class ApiError(Exception):
    """The answer to a request that cannot be served.

    Attributes:
        status: The HTTP status.
        headers: Headers to send along.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        kind: str = "invalid_request_error",
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Describe the refusal; `kind` is what OpenAI calls `type`, `param` the field at fault."""
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self._error = {"message": message, "type": kind, "param": param, "code": code}

    def body(self) -> JsonObject:
        """The error as the JSON object that OpenAI's clients read."""
        return {"error": dict(self._error)}


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """A 400: `param` of the request is at fault, the message says why and what would do."""
    return ApiError(400, message, code=code, param=param)
