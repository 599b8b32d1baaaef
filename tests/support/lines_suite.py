"""The suite of transports for `LinesTransport`."""

from typing import Any

import anyio
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream

from nodekit import JobId, Refusal, Unavailable
from nodekit.testing import TransportContract


class LinesSuite(TransportContract):
    """Requests of a client of `LinesTransport`."""

    beginning = b'{"submit": ["ec'

    async def submit(self, url: str, *containers: str, data: Any = None, source: str | None = None) -> JobId:
        reply = await self.asked(url, source, submit=containers, data=data or {})
        if "refused" in reply:
            raise Refusal(reply["refused"], **reply["params"])
        if "unavailable" in reply:
            raise Unavailable(reply["unavailable"], retry_after_seconds=reply["seconds"])
        return str(reply["id"])

    async def fetch(self, url: str, id: JobId, *, source: str | None = None) -> Any:
        return (await self.asked(url, source, fetch=id))["job"]

    async def asked(self, url: str, source: str | None, **request: Any) -> Any:
        with anyio.fail_after(self.timeout_seconds):
            async with await self.connect(url, source) as stream:
                await stream.send(msgspec.json.encode(request) + b"\n")
                return msgspec.json.decode(await BufferedByteReceiveStream(stream).receive_until(b"\n", 1 << 20))
