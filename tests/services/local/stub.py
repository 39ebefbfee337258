"""A program that starts, announces itself and is ready, as ``cutlayer serve`` does, or is not, as STUB says.

STUB=<name>:<fault>: ``ends`` at once, is ``deaf`` (never ready), ``stubborn`` (ignores SIGTERM).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path


def main() -> None:
    words = sys.argv[1:]
    flags = dict(pairwise(words))
    kind = words[1] if words[0] == "serve" else "client"
    name = flags.get("--name") or Path(flags["--announce"]).stem
    fault = dict(each.split(":") for each in os.environ.get("STUB", "").split(",") if each).get(name)
    print(f"{name} begins with {sorted(k for k in os.environ if k.startswith('CUTLAYER_'))}", flush=True)
    if fault == "ends":
        print("cutlayer: the database is nowhere", file=sys.stderr)
        sys.exit(10)
    if fault == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    folder = Path(flags["--folder"])
    if kind == "client":
        folder.mkdir(parents=True)
        (folder / "joined").touch()
        time.sleep(600)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found: object = {}
            if self.path == "/v1/clients":
                found = [client(p.parent.name) for p in folder.glob("clients/*/joined")]
            elif self.path.startswith("/v1/runs"):
                found = {"runs": []}
            body = json.dumps(found).encode()
            self.send_response(503 if fault == "deaf" else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", int(flags["--port"])), Handler)
    port = server.server_port
    announce = Path(flags["--announce"])
    said = {"pid": os.getpid(), "host": "127.0.0.1", "port": port, "url": f"http://127.0.0.1:{port}"}
    announce.with_suffix(".part").write_text(json.dumps(said))
    announce.with_suffix(".part").replace(announce)
    threading.current_thread().name = "serving"
    server.serve_forever()


def client(name: str) -> dict[str, object]:
    return {"id": name, "name": name, "connected": True, "revoked": False, "capabilities": {}, "created": 0.0}


main()
