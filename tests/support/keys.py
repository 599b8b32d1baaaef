"""Keys of the plugin `apikeys`, made without the command line."""

import time
from pathlib import Path
from typing import Any

from nodekit_apikeys._file import changing
from nodekit_apikeys._key import Key, StoredSecret
from nodekit_apikeys._text import digest_of, new_id, new_text

KINDS = ["is a link", "is no file; name", "is open to others", "cut off", "is no file of keys", "line 3 is no key"]
"""Parts of the problems of the files that `broken` makes."""


def make_key(name: str, *, secrets: int = 1, **fields: Any) -> tuple[Key, str]:
    """Return a key, and the text of its newest secret."""
    id = new_id()
    texts = [new_text(id) for _ in range(secrets)]
    stored = tuple(StoredSecret(digest_of(text)) for text in texts)
    return Key(id=id, name=name, created=time.time(), secrets=stored, **fields), texts[-1]


def add_key(path: Path, name: str, **fields: Any) -> str:
    """Add a key to a file of keys; return its text."""
    key, text = make_key(name, **fields)
    with changing(path) as change:
        change.keys[name] = key
        change.save()
    return text


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def broken(path: Path, kind: str) -> None:
    """Spoil a file of keys in one of the `KINDS`, or another way that the text of a problem names."""
    good = path.read_bytes() if path.exists() else b""
    line = good.splitlines()[-1] + b"\n" if good else b""
    path.unlink(missing_ok=True)
    match kind:
        case "is a link":
            other = path.with_name("other")
            other.write_bytes(good)
            other.chmod(0o600)
            path.symlink_to(other)
            return
        case "is no file; name":
            path.mkdir()
            return
        case "is open to others":
            path.write_bytes(good)
            path.chmod(0o640)
            return
        case "is gone":
            return
        case "cut off":
            path.write_bytes(good[:-10])
        case "is no file of keys":
            path.write_bytes(b"hello\n")
        case "line 3 is no key":
            path.write_bytes(good + line.replace(b'"name":"alice"', b'"name":"10.0.0.1"'))
        case "two keys of one name":
            path.write_bytes(good + line)
    path.chmod(0o600)
