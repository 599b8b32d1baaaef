"""Promises of a transport that speaks the HTTP API."""

from nodekit.testing.contracts.transports.http_jobs import HttpJobs
from nodekit.testing.contracts.transports.http_reading import HttpReading
from nodekit.testing.contracts.transports.http_requests import HttpRequests
from nodekit.testing.contracts.transports.http_submitting import HttpSubmitting
from nodekit.testing.contracts.transports.transport import TransportContract


class HttpTransportContract(HttpSubmitting, HttpReading, HttpRequests, HttpJobs, TransportContract):
    """Suite of a transport that speaks the HTTP API; it includes `TransportContract`. Define the fixture `transport`.

    The suite expects everything that the API has beyond the document, unless an attribute says otherwise: `waits`,
    `idempotency_keys`, `priorities`, `request_ids`, `histories`, `events`, `retries`, `filters`, `described`.
    """
