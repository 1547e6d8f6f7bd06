"""Addresses as they may be shown and kept: without what only their owner should know.

An address can carry a password (`https://name:secret@host/…`) or a signature in its query
(`…?X-Amz-Signature=…`, `?token=…`). The address as it was given is used to read, and by nothing
else: whatever is written to a file, printed or logged is its public form, and that is also what a
run is compared by when it is resumed.
"""

from __future__ import annotations

import re
from pathlib import Path

from clipgap.errors import UsageError

SETTINGS = ("array", "dim", "paths", "missing")
"""What a query may say to clipgap itself; see `files.naming`."""

_HIDDEN = "***"
_REMOTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # a Path has one slash less
_ADDRESS = re.compile(r"\S*[A-Za-z0-9+.-]{2}:/\S*")
SLASHES = re.compile(r":/+")
"""Behind a scheme; a Path has one fewer."""
_USER = re.compile(r"(:/{1,2})[^/?#\s]*@")
_OURS = "|".join(SETTINGS)
# A value ends at the next one, at a join, at a setting of ours, or with the sentence around it.
_VALUE = re.compile(
    rf"([?&;#])(?!(?:{_OURS})=)([^=&?;\s]*)=(?:(?!::|\?(?:{_OURS})=)[^&;\s])*?"
    rf"(?=&|;|::|\?(?:{_OURS})=|[\])}}'\",.:]*(?:\s|$))"
)


BUCKET = re.compile(r"s3://(?P<bucket>[^/@?#]+)/(?P<prefix>[^?#]*[^/?#])/*")
"""A place in a bucket."""


def require_bucket(place: str) -> None:
    """Refuse what is no place where an output can be put up."""
    if not BUCKET.fullmatch(place):
        raise UsageError(
            f"{public(place)}: an output is put up at s3://BUCKET/NAME; who you are and where the "
            "server is are read from the environment"
        )


def require_local(output: str | Path) -> None:
    """Refuse an output on a remote store, which would become a local folder of that name."""
    if found := _REMOTE.match(str(output)):
        raise UsageError(
            f"an output cannot be written to {found[1]}://; name a folder of this machine, and "
            "give --upload s3://BUCKET/NAME to have it put up there as it is filled"
        )


def is_remote(place: str | Path) -> bool:
    """Whether this is an address, not a path of this machine."""
    return _REMOTE.match(str(place)) is not None


def public(text: str) -> str:
    """A text with every address in it in its public form: no name, no password, no query.

    Of a query only the names are left, since nobody can list all names that secrets go by.
    """
    if ":/" not in text:
        return text
    return _ADDRESS.sub(lambda found: _public_address(found[0]), text)


def is_masked(address: str) -> bool:
    """Whether this is the public form of an address that says more to its owner."""
    return "://" in address and _HIDDEN in address


def _public_address(address: str) -> str:
    return _VALUE.sub(rf"\1\2={_HIDDEN}", _USER.sub(rf"\1{_HIDDEN}@", address))
