"""The page `/-/chain/`: the state of the chain and of the work for it, as JSON."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec

from nodekit import NodekitError, PluginStorage, Refusal
from nodekit_chain._settings import ChainConfig
from nodekit_chain.protocol.address import InvalidAddress, parse_address
from nodekit_chain.protocol.contracts import Coordinator
from nodekit_chain.protocol.subscription import Subscription
from nodekit_chain.rpc.questions import Question, call, quantity, result_bytes
from nodekit_chain.work.ledger import Ledger
from nodekit_chain.work.records import Work, delegated_work_key
from nodekit_chain.work.status import read_status

if TYPE_CHECKING:
    from nodekit_chain._served import Served
    from nodekit_chain.rpc.endpoints import Endpoints

Parts = Callable[[], "tuple[Endpoints | None, Served | None, str]"]

MOST_RECORDS = 200
"""Records that one reply shows: the newest ones."""
NEWEST_ID = 2**32 - 1


class Page:
    """An application with `GET /`, the state, and `GET /show?id=`, a subscription with its records."""

    def __init__(self, storage: PluginStorage, config: ChainConfig, parts: Parts) -> None:
        self._storage, self._config, self._parts = storage, config, parts
        self._ledger = Ledger(storage)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        status, body = 404, {"error": "no such path"}
        if scope["method"] not in ("GET", "HEAD"):
            status, body = 405, {"error": "GET it"}
        else:
            try:
                if path == "/":
                    status, body = 200, await self.state()
                elif path == "/show":
                    asked = parse_qs(scope["query_string"].decode("latin-1")).get("id", [""])[-1]
                    status, body = 200, await self.shown(asked)
            except Refusal as refusal:
                status, body = 400, {"error": str(refusal.reason)}
            except NodekitError as error:
                status, body = 503, {"error": str(error)}
        data = msgspec.json.encode(body)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
        if status == 405:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else data})

    async def state(self) -> dict[str, Any]:
        """Return the state of endpoints, account and work."""
        endpoints, served, address = self._parts()
        found: dict[str, Any] = {"address": address, "registry": self._config.registry, "served": served is not None}
        if endpoints is not None:
            found["endpoints"] = [
                {"name": one.name, "failure": one.reason, "requests": one.requests} for one in endpoints.states
            ]
        if served is not None and endpoints is not None:
            found |= {
                "chain_id": served.chain_id,
                "coordinator": served.discovered.coordinator,
                "leads": served.engine.leads,
                "account": await _account(endpoints, address),
            }
        status = await read_status(self._storage)
        found["watch"] = None if status is None else msgspec.to_builtins(status, str_keys=True)
        return found

    async def shown(self, id: str) -> dict[str, Any]:
        """Return a subscription and its records. `id` is a number, or ``OWNER/NONCE``. Raise `Refusal` for others."""
        endpoints, served, _ = self._parts()
        if served is None or endpoints is None:
            raise NodekitError("the chain does not answer, so that its coordinator is not known")
        coordinator = served.discovered.coordinator
        owner, slash, nonce = id.partition("/")
        if slash:
            entry = await self._ledger.get(delegated_work_key(coordinator, _address(owner), _number(nonce)))
            works = [] if entry is None else [entry.work]
            number = works[0].id if works else 0
        else:
            number = _number(id)
            works = [one.work async for one in self._ledger.all(f"{coordinator}/{number:010}.")]
        subscription = await _subscription(endpoints, coordinator, number) if number else None
        if subscription is not None and not slash:
            delegated = self._ledger.all(f"{coordinator}/{subscription.owner}/")
            works += [one.work async for one in delegated if number == one.work.id]
        return {
            "subscription": None if subscription is None else _fields(subscription),
            "records": [_record(work) for work in works[-MOST_RECORDS:]],
        }


async def _account(endpoints: "Endpoints", address: str) -> dict[str, Any]:
    try:
        count, pending, balance = await endpoints.batch(
            [
                Question("eth_getTransactionCount", (address, "latest")),
                Question("eth_getTransactionCount", (address, "pending")),
                Question("eth_getBalance", (address, "latest")),
            ]
        )
        nonce = quantity(count)
        return {"nonce": nonce, "pending": quantity(pending) - nonce, "balance": str(quantity(balance))}
    except NodekitError as error:
        return {"error": str(error)}


async def _subscription(endpoints: "Endpoints", coordinator: str, id: int) -> Subscription | None:
    (reply,) = await endpoints.batch([call(coordinator, Coordinator.get_subscription.encode(id))])
    found = Subscription.from_row(Coordinator.get_subscription.decode_one(result_bytes(reply)))
    return found if found.exists else None


def _fields(subscription: Subscription) -> Mapping[str, Any]:
    fields = msgspec.structs.asdict(subscription)
    amount, containers = str(subscription.payment_amount), f"0x{subscription.containers.hex()}"
    return fields | {"containers": containers, "payment_amount": amount}


def _record(work: Work) -> dict[str, Any]:
    return {
        "key": work.key,
        "id": work.id or None,
        "interval": work.interval,
        "state": work.state,
        "reason": work.reason,
        "attempts": work.attempts,
        "containers": work.containers,
        "job": work.job or None,
        "nonce": work.nonce,
        "transactions": [sent.hash for sent in work.sent],
        "block": work.block or None,
        "seen_at": work.seen_at,
        "changed_at": work.changed_at,
    }


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text[:11]) > NEWEST_ID:
        raise Refusal("id: expected the number of a subscription, or OWNER/NONCE of a delegated one")
    return int(text)


def _address(text: str) -> str:
    try:
        return parse_address(text)
    except InvalidAddress as error:
        raise Refusal(f"id: {error}") from error
