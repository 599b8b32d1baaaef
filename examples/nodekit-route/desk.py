"""The containers of the node in `node.toml`. Long texts are summarised before they are answered."""

from typing import Any

Data = dict[str, Any]


async def desk(data: Data) -> Data:
    return {"text": data["text"], "next": "summarise" if len(data["text"]) > 20 else "answer"}


async def summarise(data: Data) -> Data:
    return {"text": data["text"][:20] + "…", "next": "answer"}


async def answer(data: Data) -> Data:
    return {"answer": f"You said: {data['text']}"}
