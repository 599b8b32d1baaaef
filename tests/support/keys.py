"""Keys of the plugin `apikeys`, made without the command line."""

import time
from pathlib import Path
from typing import Any

from nodekit_apikeys._file import changing
from nodekit_apikeys._key import Key, StoredSecret
from nodekit_apikeys._text import digest_of, new_id, new_text


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
