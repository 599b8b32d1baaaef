"""Promises of a transport that speaks the HTTP API."""

from nodekit.testing.contracts.transports.http_always import AlwaysContract
from nodekit.testing.contracts.transports.http_jobs import JobsContract
from nodekit.testing.contracts.transports.http_reading import ReadingContract
from nodekit.testing.contracts.transports.http_streaming import StreamingContract
from nodekit.testing.contracts.transports.http_submitting import SubmittingContract


class HttpTransportContract(SubmittingContract, ReadingContract, StreamingContract, AlwaysContract, JobsContract):
    """Suite of a transport that speaks the HTTP API; it includes `TransportContract`. Define the fixture `transport`.

    The suite expects everything that the API has beyond the document, unless an attribute says otherwise: `waits`,
    `idempotency_keys`, `priorities`, `request_ids`, `histories`, `events`, `retries`, `filters`, `described`.
    """
