"""Whether the service in this container answers: ``python -m cutlayer.services.probe``, for container health checks.

It asks ``/healthz`` at the port that the service wrote into the file of ``CUTLAYER_ANNOUNCE``; exit code 0 or 1.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path

SECONDS = 4.0


def answers(environ: Mapping[str, str]) -> str | None:
    """Return None if the service is well, else why not in a few words."""
    try:
        said = json.loads(Path(environ["CUTLAYER_ANNOUNCE"]).read_text())
        port = int(said["port"])
    except (OSError, KeyError, TypeError, ValueError):
        return "it has not announced itself in the file of CUTLAYER_ANNOUNCE"
    connection = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    if environ.get("CUTLAYER_TLS_CERT"):
        connection = HTTPSConnection("127.0.0.1", port, timeout=SECONDS, context=_own_service(environ))
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return f"it does not answer: {error}"
    finally:
        connection.close()
    return None if status == 200 else f"it answers {status}"


def _own_service(environ: Mapping[str, str]) -> ssl.SSLContext:
    """Trust whoever listens here: it is this container, no name fits 127.0.0.1, and nothing secret is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if environ.get("CUTLAYER_TLS_CLIENT_CA"):
        context.load_cert_chain(environ["CUTLAYER_TLS_CERT"], environ["CUTLAYER_TLS_KEY"])
    return context


def main() -> int:
    """Print what is wrong, if anything; return the exit code."""
    wrong = answers(os.environ)
    if wrong is not None:
        print(wrong, file=sys.stderr)
    return 0 if wrong is None else 1


if __name__ == "__main__":
    sys.exit(main())
