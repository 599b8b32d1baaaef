"""Subscriptions that clients send to a node. The node hands them to plugins, and does not look into them."""

import msgspec


class SubscriptionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request with a signed subscription in place of containers. A plugin knows which containers it means.

    All fields are JSON as the client sent it. Nothing has been checked but that it is JSON.

    - `data`: The input of the first container. None if the request has none.
    """

    signature: msgspec.Raw
    subscription: msgspec.Raw
    data: msgspec.Raw | None = None
