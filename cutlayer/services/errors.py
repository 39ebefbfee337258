"""What a service answers instead of a result, as an exception on both sides of the connection.

    ServiceError         exit code 10
    ├── Unauthorized     401   no token or ticket, or one that is not valid
    ├── Forbidden        403   a valid one, for something else
    ├── NotFound         404   there is no such run, round, task, client, ...
    ├── Conflict         409   taken, closed, or not possible in this state
    ├── TooLarge         413   a body above the limit
    ├── Unprocessable    422   understood, and wrong
    ├── TooMany          429   above the rate; come back after ``retry_after`` seconds
    └── Unavailable      503   what the service needs is away; come back after ``retry_after`` seconds

On the wire it is ``{"error": sentence, "code": word, "request_id": id}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cutlayer import errors


class ServiceError(errors.ServiceError):
    """A request that was not granted: ``status`` for HTTP, ``code`` for programs, the message for people.

    ``retry_after`` is the number of seconds after which the same request may succeed, or None; ``about`` is what more
    there is to say to programs, beside the sentence on the wire.
    """

    status = 500
    code = "internal"

    def __init__(self, message: str, *, code: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.retry_after = retry_after
        self.about: Mapping[str, Any] = {}


class Unauthorized(ServiceError):
    """There is no token or ticket, or it is not valid (any more)."""

    status = 401
    code = "unauthorized"


class Forbidden(ServiceError):
    """The token or ticket is valid, and not for this."""

    status = 403
    code = "forbidden"


class NotFound(ServiceError):
    """What the path names does not exist."""

    status = 404
    code = "not_found"


class Conflict(ServiceError):
    """The name is taken, the round is closed, or the state does not allow it."""

    status = 409
    code = "conflict"


class TooLarge(ServiceError):
    """The body is above the limit."""

    status = 413
    code = "too_large"


class Unprocessable(ServiceError):
    """The request was understood, and what it says is wrong."""

    status = 422
    code = "unprocessable"


class TooMany(ServiceError):
    """Requests come faster than allowed."""

    status = 429
    code = "too_many"

    def __init__(self, message: str, *, code: str | None = None, retry_after: float | None = 1.0) -> None:
        super().__init__(message, code=code, retry_after=retry_after)


class Unavailable(ServiceError):
    """The store, the database or another service is away: the same request may succeed later."""

    status = 503
    code = "unavailable"

    def __init__(self, message: str, *, code: str | None = None, retry_after: float | None = 1.0) -> None:
        super().__init__(message, code=code, retry_after=retry_after)


_BY_STATUS: dict[int, type[ServiceError]] = {kind.status: kind for kind in ServiceError.__subclasses__()}


def of_status(
    status: int,
    message: str,
    *,
    code: str | None = None,
    retry_after: float | None = None,
    about: Mapping[str, Any] | None = None,
) -> ServiceError:
    """Return the error that an answer with ``status`` means, so that a caller raises what the service raised.

    An unknown status above 499 is Unavailable when it says when to come back, else a plain ServiceError with that
    status; an unknown one below is Unprocessable.
    """
    kind = _BY_STATUS.get(status)
    if kind is None and status >= 500 and retry_after is not None:
        kind = Unavailable
    if kind is None:
        kind = ServiceError if status >= 500 else Unprocessable
    error = kind(message, code=code) if retry_after is None else kind(message, code=code, retry_after=retry_after)
    error.status, error.about = status, about or {}
    return error
