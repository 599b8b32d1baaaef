"""The records of a plugin, for commands that work on them beside the nodes of a store."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from nodekit.config.compose import compose_store
from nodekit.config.formats import read_file
from nodekit.errors import NodekitError, StoreFailed
from nodekit.interfaces.storage import PluginStorage
from nodekit.interfaces.store import JobStore
from nodekit.node.plugin_storage import storage_of


@asynccontextmanager
async def open_records(path: Path | str, namespace: str, *, create: bool = True) -> AsyncIterator[PluginStorage]:
    """Open the records that a plugin keeps in the store of a node file; the node may run meanwhile, or not.

    A file of a store that is not there yet is made, unless `create` is false: then `StoreFailed` is raised. Raise
    `CompositionError` if the node file describes no valid store, and `NodekitError` if its store keeps no records of
    plugins, or none but its own process can use them.
    """
    store = compose_store(read_file(path), Path(path))
    storage_of(store, namespace)
    async with AsyncExitStack() as stack:
        opened = await _opened(store, stack, create=create)
        yield opened.storage(namespace)


async def _opened(store: JobStore, stack: AsyncExitStack, *, create: bool) -> Any:
    """Enter the view of a store or, if there is nothing to look at yet and `create`, its archive, which makes that."""
    able: Any = store
    if not hasattr(store, "view") or not hasattr(opened := able.view(), "storage"):
        text = "this kind of store cannot be opened beside its node, so its records are for the node alone"
        raise NodekitError(f"{text}; use another one, such as sqlite")
    try:
        return await stack.enter_async_context(opened)
    except StoreFailed:
        if not create or not hasattr(store, "archive"):
            raise
        return await stack.enter_async_context(able.archive(create=True))
