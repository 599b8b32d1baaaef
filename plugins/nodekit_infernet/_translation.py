"""The translation of an `InfernetConfig` to the tables of a node file."""

import os
from typing import Any
from urllib.parse import quote

import msgspec

from nodekit import Secret, counted
from nodekit_infernet._config import Redis
from nodekit_infernet._containers import add_runners
from nodekit_infernet._draft import Draft, is_provided, said, without_empty, without_secrets
from nodekit_infernet._reading import Read
from nodekit_infernet._toml import inline

JOBS = "jobs.db"
NO_CHAIN = (
    "chain.enabled: no chain plugin is installed, so on-chain subscriptions are not served: this node serves off-chain "
    "jobs only, watches no chain, signs nothing, and refuses subscriptions. To serve them: pip install nodekit-chain."
)
NO_ROOM = (
    "jobs cannot be kept in {jobs} beside this file: this user cannot write there, in {folder}. Copy the file into a "
    "folder that the user of the node can write, and serve it there; or write a node file into one, "
    "`nodekit migrate FILE --output FOLDER/node.toml`."
)
NO_REDIS = (
    "redis: not used, as no store for it is installed (nodekit-redis); jobs are kept in {jobs} beside this file. Jobs "
    "that Infernet kept in Redis are not taken over."
)
ON_REDIS = (
    "redis: jobs are kept there, under the prefix nodekit. Jobs that Infernet kept in it are not taken over. Whatever "
    'it loses is accepted (durability = "none"): without appendonly, it loses all jobs when it ends. A node file can '
    'hold it to more, with durability = "always".'
)
LEFT_BEHIND = (
    "jobs of {jobs} beside this file are unknown to this node: a store for Redis is installed, so jobs are kept there. "
    "Serve a node file with the store sqlite to go on with them, or remove {jobs}."
)

STATUS_NETWORKS = ("127.0.0.0/8", "::1/128", "172.16.0.0/12")
"""Loopback, and the networks of Docker's bridges."""


def translated(read: Read) -> Draft:
    """Return the tables with their comments, notices and problems."""
    draft = Draft(read)
    draft.problems += read.problems
    runs_chain = read.config.chain.enabled and is_provided("plugin", "chain")
    if read.config.chain.enabled and not runs_chain:
        draft.warn("", NO_CHAIN)
    _add_log(draft)
    _add_store(draft)
    add_runners(draft, chain=runs_chain)
    _add_transport(draft)
    _add_plugins(draft, chain=runs_chain)
    _remark(draft)
    return draft


def summary(draft: Draft) -> tuple[str, ...]:
    """Return the lines for the log of a node that starts: what is urgent, and one line for everything else."""
    count = len(draft.notices) - len(draft.urgent)
    if not count:
        return tuple(draft.urgent)
    settings = f"{count} settings mean" if count > 1 else "1 setting means"
    text = f"{settings} something else here than in Infernet; `nodekit check {draft.read.path}` lists them, and "
    return (*draft.urgent, text + "docs/how-to/move-from-infernet.md explains each")


def _add_log(draft: Draft) -> None:
    log = draft.read.config.log
    draft.tables["log"] = {"path": log.path, "max_file_bytes": log.max_file_size, "backups": log.backup_count}
    draft.origin("log.max_file_bytes", "log.max_file_size")
    draft.origin("log.backups", "log.backup_count")
    draft.comment("log", "log.max_file_size is max_file_bytes here, log.backup_count is backups.")
    draft.comment("log", "The lines are those on standard error, as text; Infernet wrote JSON, down to level debug.")


def _add_store(draft: Draft) -> None:
    """Keep jobs in the Redis that the file names, if a store for it is installed, and otherwise in SQLite."""
    if draft.given("redis") and is_provided("store", "redis"):
        _add_redis(draft)
    else:
        _add_sqlite(draft)


def _add_redis(draft: Draft) -> None:
    url = Secret(_url_of(draft.read.config.redis))
    draft.tables["store"] = {"use": "redis", "url": url, "durability": "none"}
    draft.secret("store.url", "redis", "REDIS_URL", url)
    draft.notice("store", ON_REDIS)
    if os.path.exists(draft.read.path.absolute().parent / JOBS):
        draft.warn("store", LEFT_BEHIND.format(jobs=JOBS))


def _url_of(redis: Redis) -> str:
    """Return the address of a server as one text, with its password."""
    host = f"[{redis.host}]" if ":" in redis.host else quote(redis.host, safe="")
    user = "" if redis.username is None else quote(redis.username, safe="")
    password = "" if redis.password is None else f":{quote(redis.password.reveal(), safe='')}"
    return f"redis://{user}{password}{'@' if user or password else ''}{host}:{redis.port}/{redis.db}"


def _add_sqlite(draft: Draft) -> None:
    draft.tables["store"] = {"use": "sqlite", "path": JOBS}
    draft.notice("store", NO_REDIS.format(jobs=JOBS))
    _keep(draft, "store", "redis", draft.read.config.redis)
    folder = draft.read.path.absolute().parent
    jobs = folder / JOBS
    if not os.access(folder, os.W_OK) or (os.path.exists(jobs) and not os.access(jobs, os.W_OK)):
        draft.warn("store", NO_ROOM.format(folder=folder, jobs=JOBS))


def _keep(draft: Draft, where: str, key: str, struct: msgspec.Struct) -> None:
    """Keep settings that nothing reads yet as comments. Secrets are left out."""
    for name, value in without_secrets(said(struct)).items():
        draft.comment(where, f"  {key}.{name} = {inline(value)}")


def _add_transport(draft: Draft) -> None:
    server = draft.read.config.server
    draft.tables["transports"] = [
        {
            "use": "asgi",
            "bind": f"0.0.0.0:{server.port}",
            "profile": "infernet-1.4",
            "status_networks": list(STATUS_NETWORKS),
        }
    ]
    draft.origin("transports[0].bind", "server.port")
    draft.notice(
        "transports[0].bind",
        f"server.port: listens on all addresses (0.0.0.0:{server.port}), as Infernet did; a node file of its own, "
        'or --bind, can have "127.0.0.1" instead.',
    )
    draft.comment(
        "transports[0].status_networks",
        "Addresses that may report the results of jobs: this machine and its containers.",
    )
    draft.comment("transports[0].status_networks", "Infernet took such reports from 192.168.0.0/16 as well.")
    draft.comment("transports[0].profile", "Replies are those of Infernet 1.4 where nodekit's own differ.")


def _add_plugins(draft: Draft, *, chain: bool) -> None:
    limit = draft.read.config.server.rate_limit
    plugins: list[dict[str, Any]] = [
        {"use": "guardian"},
        {"use": "ratelimit", "requests": limit.num_requests, "period_seconds": limit.period},
    ]
    draft.tables["plugins"] = plugins
    draft.comment("plugins[0]", "Reads external, allowed_ips and generates_proofs of the containers.")
    draft.origin("plugins[1].requests", "server.rate_limit.num_requests")
    draft.origin("plugins[1].period_seconds", "server.rate_limit.period")
    draft.notice(
        "plugins[1]",
        f"server.rate_limit: {counted(limit.num_requests, 'request')} in {limit.period} s is for all of a client's; "
        "Infernet counted each route for itself. /health is not counted.",
    )
    if chain:
        _add_chain(draft, plugins)
    else:
        _leave_chain(draft)


def _add_chain(draft: Draft, plugins: list[dict[str, Any]]) -> None:
    where = f"plugins[{len(plugins)}]"
    settings = without_empty(said(draft.read.config.chain))
    del settings["enabled"]
    if "rpc_url" in settings:
        settings["rpc_url"] = [settings["rpc_url"]]
    plugins.append({"use": "chain", **settings})
    draft.origin(where, "chain")
    draft.comment(where, "rpc_url may name further endpoints, which are used while the first one fails.")
    draft.notice(
        where,
        "chain: subscriptions are served by nodekit-chain; docs/how-to/serve-subscriptions.md says what differs.",
    )
    if key := settings.get("wallet", {}).get("private_key"):
        draft.secret(f"{where}.wallet.private_key", "chain.wallet.private_key", "CHAIN_PRIVATE_KEY", key)
    if "rpc_url" in settings:
        draft.origin(f"{where}.rpc_url[0]", "chain.rpc_url")
        draft.copy(f"{where}.rpc_url", "chain.rpc_url")


def _leave_chain(draft: Draft) -> None:
    chain = draft.read.config.chain
    if draft.given("chain"):
        draft.comment("", "chain, for a chain plugin; its private key is not repeated here:")
        _keep(draft, "", "chain", chain)


def _remark(draft: Draft) -> None:
    """Add notices and comments for settings without a table."""
    if draft.read.config.forward_stats:
        draft.notice("", "forward_stats: no telemetry is ever sent; the value is ignored.")
    if draft.given("startup_wait"):
        draft.comment("", "startup_wait: a container is called once it answers, so the node waits for nothing else.")
    for key in draft.read.unknown:
        draft.notice("", f"{key}: unknown to Infernet 1.4 and ignored.")
