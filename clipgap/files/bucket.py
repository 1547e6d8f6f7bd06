"""Objects on S3, put up whole and checked, or not there.

A small file goes up in one request. A larger one goes in parts, which become an object in one step
when all are there; until then nobody sees anything of it. The server is told the SHA-256 of what it
is sent, refuses what differs, and is asked afterwards what it has. Requests that fail for now are
repeated by s3fs and botocore, as often as these are set to.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from clipgap.errors import InputError
from clipgap.files.atomic import write_atomic
from clipgap.files.folders import open_file
from clipgap.files.volumes import RemoteVolume, read_bytes, unreachable

_PART = 32 << 20
_MOST_PARTS = 10_000
_MARK = "clipgap"
"""The entry of an object's metadata that says what it holds."""


class _Missing(InputError):
    """There is nothing of that name."""


class _Otherwise(InputError):
    """What is there is not what it should be to be replaced."""


@dataclass(frozen=True)
class Standing:
    """An object that is there."""

    size: int
    mark: str  # what it was said to hold; "" if by nobody
    etag: str  # another after each change


@dataclass(frozen=True)
class Bucket:
    """What lies under an address such as s3://bucket/scan; names are as in a folder."""

    address: str

    def __str__(self) -> str:
        return self.address.rstrip("/")

    @cached_property
    def _volume(self) -> RemoteVolume:
        return RemoteVolume.connect(str(self))

    @property
    def _place(self) -> tuple[str, str]:
        bucket, _, prefix = str(self).removeprefix("s3://").partition("/")
        return bucket, prefix and f"{prefix}/"

    def names(self) -> list[str]:
        """Of all objects here."""
        return self._volume.names(str(self))

    def standing(self, name: str) -> Standing | None:
        """What is there under a name; None if nothing is."""
        try:
            head = self._call("head_object", name)
        except _Missing:
            return None
        return Standing(head["ContentLength"], head["Metadata"].get(_MARK, ""), head["ETag"])

    def age(self, name: str) -> float:
        """Seconds since an object was written, by the clock of the server."""
        head = self._call("head_object", name)
        now = parsedate_to_datetime(head["ResponseMetadata"]["HTTPHeaders"]["date"])
        return max(0.0, float((now - head["LastModified"]).total_seconds()))

    def read(self, name: str) -> bytes:
        """All of a small object."""
        return b"".join(self._pieces(name))

    def get(self, name: str, path: Path) -> None:
        """Copy an object into a file, which is then whole or not there."""
        with write_atomic(path) as temporary, temporary.open("wb") as file:
            for piece in self._pieces(name):
                file.write(piece)

    def _pieces(self, name: str) -> Iterator[bytes]:
        file = self._volume.file(f"{self}/{name}")
        if file is None:
            raise InputError(f"{self}/{name}: is no longer there")
        for start in range(0, file.size, _PART):
            yield read_bytes(file, start, min(_PART, file.size - start))

    def put(self, name: str, path: Path, mark: str = "") -> None:
        """Copy a file there, in place of what was there; `mark` says what it holds."""
        size, more = path.stat().st_size, {"ChecksumAlgorithm": "SHA256", "Metadata": {_MARK: mark}}
        with open_file(path) as file:
            if size <= _PART:
                content = file.readall()
                sent = hashlib.sha256(content).digest()
                self._call("put_object", name, Body=content, ChecksumSHA256=_text(sent), **more)
            else:
                each = max(_PART, -(-size // _MOST_PARTS))
                sent = self._put_parts(name, iter(lambda: file.read(each), b""), more)
        head = self._call("head_object", name, ChecksumMode="ENABLED")
        # Of an object in parts it is followed by their number.
        arrived = head.get("ChecksumSHA256", "").partition("-")[0]
        if (head["ContentLength"], arrived) != (size, _text(sent)):
            self.remove(name)
            wrong = "arrived otherwise than it was sent; try again"
            if not arrived:
                wrong = "nobody knows what arrived, since the server does not tell checksums"
            raise InputError(f"{self}/{name}: {wrong}")

    def _put_parts(self, name: str, parts: Iterator[bytes], more: Mapping[str, Any]) -> bytes:
        """The checksum of the object: that of those of its parts, one after another."""
        upload = self._call("create_multipart_upload", name, **more)["UploadId"]
        done, whole = [], hashlib.sha256()
        try:
            for number, content in enumerate(parts, 1):
                digest = hashlib.sha256(content).digest()
                whole.update(digest)
                part = {"PartNumber": number, "ChecksumSHA256": _text(digest)}
                sent = self._call("upload_part", name, UploadId=upload, Body=content, **part)
                done.append({**part, "ETag": sent["ETag"]})
            all_parts = {"Parts": done}
            self._call(
                "complete_multipart_upload", name, UploadId=upload, MultipartUpload=all_parts
            )
        except BaseException:
            with suppress(Exception):
                self._call("abort_multipart_upload", name, UploadId=upload)
            raise
        return whole.digest()

    def remove(self, name: str) -> None:
        """There may be nothing of that name."""
        self._call("delete_object", name)

    def remove_cut_short(self) -> None:
        """Have the server forget the parts of uploads that never ended."""
        bucket, prefix = self._place
        with self._asked(""):
            call = self._volume.filesystem.call_s3
            found = call("list_multipart_uploads", Bucket=bucket, Prefix=prefix)
            for upload in found.get("Uploads", ()):
                key = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                call("abort_multipart_upload", **key)

    def put_if(self, name: str, content: bytes, there: str | None) -> str | None:
        """Write an object if what is there has this ETag, or nothing is; its ETag, None if not."""
        condition = {"IfNoneMatch": "*"} if there is None else {"IfMatch": there}
        try:
            etag: str = self._call("put_object", name, Body=content, **condition)["ETag"]
        except (_Missing, _Otherwise):
            return None
        return etag

    def _call(self, method: str, name: str, **more: Any) -> Any:
        bucket, prefix = self._place
        with self._asked(name):
            return self._volume.filesystem.call_s3(method, Bucket=bucket, Key=prefix + name, **more)

    @contextmanager
    def _asked(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of s3fs, botocore and aiohttp
            where = f"{self}/{name}".rstrip("/")
            answer = getattr(error.__cause__, "response", {}).get("Error", {})
            if answer.get("Code") in ("PreconditionFailed", "ConditionalRequestConflict"):
                raise _Otherwise(f"{where}: was changed meanwhile") from error
            if isinstance(error, FileNotFoundError):
                raise _Missing(f"{where}: there is no such bucket, or no such object") from error
            raise unreachable(where, error, "used") from error


def _text(digest: bytes) -> str:
    """As S3 writes it."""
    return base64.b64encode(digest).decode()
