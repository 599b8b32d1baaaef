"""Keys of the plugin `apikeys`: time to read a file of many, and CPU of an identification.

`python benchmarks/keys.py [NUMBER]`
"""

import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import anyio

from nodekit import Connection, Node, Unauthorized
from nodekit_apikeys import ApiKeys
from nodekit_apikeys._file import KeyChange
from nodekit_apikeys._key import Key, StoredSecret
from nodekit_apikeys._text import digest_of, new_id, new_text
from nodekit_memory import MemoryStore

CALLS = 20_000


def made(number: int) -> tuple[dict[str, Key], str]:
    keys: dict[str, Key] = {}
    text = ""
    for count in range(number):
        id = new_id()
        text = new_text(id)
        name = f"client-{count}"
        keys[name] = Key(id=id, name=name, created=1.0, secrets=(StoredSecret(digest_of(text)),), max_pending=10)
    return keys, text


async def microseconds(node: Node, text: str) -> float:
    headers = {"authorization": f"Bearer {text}", "host": "node", "accept": "*/*"}
    connection = Connection(
        transport="http", client="10.0.0.1", address="10.0.0.1", headers=headers, operation="POST /api/jobs"
    )
    before = time.process_time()
    for _ in range(CALLS):
        with suppress(Unauthorized):
            await node.identify(connection)
    return (time.process_time() - before) / CALLS * 1e6


async def longest_stop(path: Path) -> float:
    """Return the longest time that the loop stands still while a changed file is read."""
    longest, before = 0.0, time.perf_counter()
    path.touch()
    with anyio.move_on_after(4):
        while True:
            await anyio.sleep(0.001)
            before, earlier = time.perf_counter(), before
            longest = max(longest, before - earlier)
    return longest


async def main(number: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys"
        keys, text = made(number)
        KeyChange(path, keys).save()
        wrong = text[:16] + new_text(text[3:15])[16:]
        began, used = time.perf_counter(), time.process_time()
        async with Node(store=MemoryStore(), runners=[], plugins=[ApiKeys(path, slow_down_seconds=0)]) as node:
            wall, used = time.perf_counter() - began, time.process_time() - used
            print(f"{number} keys, {path.stat().st_size >> 20} MiB: started in {wall:.2f} s, {used:.2f} s of CPU")
            print(f"a valid key: {await microseconds(node, text):.1f} µs of CPU")
            print(f"a wrong key: {await microseconds(node, wrong):.1f} µs of CPU")
            print(
                f"longest stop of the event loop while the file is read again: {await longest_stop(path) * 1000:.0f} ms"
            )


anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
