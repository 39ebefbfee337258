"""What all services have in common as web applications: ids, errors, limits, headers, probes, and how they are run."""

from cutlayer.services.web.callers import bearer, caller, recognise
from cutlayer.services.web.failures import answer, answer_for
from cutlayer.services.web.installing import Limits, install
from cutlayer.services.web.request_id import HEADER as REQUEST_ID
from cutlayer.services.web.request_id import request_id
from cutlayer.services.web.serving import Listening, Server, serve

__all__ = [
    "REQUEST_ID",
    "Limits",
    "Listening",
    "Server",
    "answer",
    "answer_for",
    "bearer",
    "caller",
    "install",
    "recognise",
    "request_id",
    "serve",
]
