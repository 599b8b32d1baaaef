"""The containers of the node in `node.toml`."""

from typing import Any


async def shop(data: Any) -> Any:
    return {"sold": data}


async def bar(data: Any) -> Any:
    return {"poured": data}
