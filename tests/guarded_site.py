"""A web site on this machine that lets in only those who know the password."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

USER, PASSWORD = "ann", "hush-hush"


class _Guard(SimpleHTTPRequestHandler):
    """Files in pieces, as readers ask for them, and lists of folders."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        if self._knows_it():
            super().do_HEAD()

    def do_GET(self) -> None:
        if not self._knows_it():
            return
        path = Path(self.translate_path(self.path))
        first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if not first or not path.is_file():
            super().do_GET()
            return
        size = path.stat().st_size
        start, stop = int(first), min(int(last or size) + 1, size)
        if start >= size:
            self._say(416, {"Content-Range": f"bytes */{size}"})
            return
        self._say(206, {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}, stop - start)
        with path.open("rb") as file:
            self.wfile.write(os.pread(file.fileno(), stop - start, start))

    def _knows_it(self) -> bool:
        secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") == f"Basic {secret}":
            return True
        self._say(401, {"WWW-Authenticate": "Basic"})
        return False

    def _say(self, code: int, headers: dict[str, str], length: int = 0) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def guarded_site(folder: Path) -> Iterator[str]:
    """Serve a folder; gives its address, password and all."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Guard, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{USER}:{PASSWORD}@127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
