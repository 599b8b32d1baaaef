"""Containers of the example. Input from a contract is hexadecimal digits; input of a client is its JSON."""

from typing import Any


async def measure(data: Any) -> Any:
    text = bytes.fromhex(data).decode() if isinstance(data, str) else data["text"]
    return {"text": text, "letters": sum(map(str.isalpha, text))}


async def shout(data: Any) -> Any:
    return {**data, "text": data["text"].upper() + "!"}
