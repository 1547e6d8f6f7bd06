"""S3 on this machine: moto's server on the loopback address, with faults on demand."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

KEY, SECRET = "AKIAHUSHHUSH", "hush-hush-hush"

Fault = Callable[[Any], Any]
"""Answers a request in place of the server: as WSGI does, or with None if it is to be served."""


class S3:
    """A bucket; `faults` are asked before each request is served."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Silent(WSGIRequestHandler):
            def log(self, *_: Any) -> None:
                pass

        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self._serve = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self, True, request_handler=Silent)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self._server.port}"

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        self.requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        for fault in list(self.faults):
            answer = fault(environ)
            if answer is not None:
                status, headers, body = answer
                start_response(status, headers)
                return [body]
        return self._serve(environ, start_response)  # type: ignore[no-any-return]

    @cached_property
    def files(self) -> Any:
        """Made once: to make a client of S3 takes half a second."""
        import s3fs

        return s3fs.S3FileSystem(use_listings_cache=False, endpoint_url=self.endpoint)

    def put(self, path: Path, name: str) -> str:
        """Copy a file or folder there; its address."""
        self.files.put(str(path), f"bucket/{name}", recursive=path.is_dir())
        return f"s3://bucket/{name}"

    def tree(self, name: str) -> dict[str, bytes]:
        """Every object under a prefix."""
        found = self.files.find(f"bucket/{name}")
        return {path.removeprefix(f"bucket/{name}/"): self.files.cat(path) for path in found}


def slow_down(environ: Any) -> Any:
    """A server that is overrun."""
    body = (
        b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
    )
    return "503 Slow Down", [("Content-Length", str(len(body)))], body


def forbidden(environ: Any) -> Any:
    """A server that does not let us."""
    body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    return "403 Forbidden", [], b"" if environ["REQUEST_METHOD"] == "HEAD" else body


def cut_short(environ: Any) -> Any:
    """A connection that ends in the middle of an answer."""
    return "206 Partial Content", [("Content-Length", "4096")], b"x" * 100


def tells(*headers: tuple[str, str]) -> Fault:
    """A server that says this of every object."""

    def asked(environ: Any) -> Any:
        if environ["REQUEST_METHOD"] != "HEAD":
            return None
        return "200 OK", [("Last-Modified", "Sat, 28 Nov 2026 15:28:20 GMT"), *headers], b""

    return asked


def now_and_then(fault: Fault, method: str, every: int = 3) -> Fault:
    """One of so many requests of a kind fails."""
    count = itertools.count(1)

    def asked(environ: Any) -> Any:
        if environ["REQUEST_METHOD"] != method or next(count) % every:
            return None
        return fault(environ)

    return asked


@pytest.fixture(scope="session")
def s3_server() -> S3:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    return S3()


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """An empty bucket of the name "bucket"."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server.endpoint,
        "AWS_MAX_ATTEMPTS": "2",
    }.items():
        monkeypatch.setenv(name, value)
    s3_server.files.mkdir("bucket")
    s3_server.requests.clear()
    yield s3_server
    s3_server.faults.clear()
    s3_server.files.rm("bucket", recursive=True)
