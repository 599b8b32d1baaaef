"""What a transport promises that speaks the HTTP API."""

from nodekit.testing.transports._http_always import AlwaysContract
from nodekit.testing.transports._http_jobs import JobsContract
from nodekit.testing.transports._http_reading import ReadingContract
from nodekit.testing.transports._http_streaming import StreamingContract
from nodekit.testing.transports._http_submitting import SubmittingContract


class HttpTransportContract(SubmittingContract, ReadingContract, StreamingContract, AlwaysContract, JobsContract):
    """As `TransportContract`, of a transport that speaks the HTTP API. Define the fixture `transport`.

    What the API has beyond the document is expected, unless an attribute says otherwise: `waits`, `idempotency_keys`,
    `priorities`, `request_ids`, `histories`, `events`, `retries`, `filters`, `described`.
    """
