"""Defines the error answers of an OpenAI-compatible server: status, message, type and code.

Does not check requests.
"""

from __future__ import annotations

from collections.abc import Mapping

JsonObject = dict[str, object]


class ApiError(Exception):
    """The answer to a request that cannot be served.

    Attributes:
        status: The HTTP status.
        headers: Additional HTTP headers.
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
        """Describe the error; `kind` is OpenAI's `type`, `param` is the invalid field of the request."""
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self._error = {"message": message, "type": kind, "param": param, "code": code}

    def body(self) -> JsonObject:
        """Return the error as the JSON object that OpenAI's clients read."""
        return {"error": dict(self._error)}


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """Return a 400: `param` of the request is invalid; the message names the reason and the cure."""
    return ApiError(400, message, code=code, param=param)
