"""The state of the engine for operators: what waits, what is dead, and how far replicas are behind."""

from typing import Any

from nodekit_postgres._connecting import Connection

FACTS = """
SELECT
    current_setting('server_version') AS postgresql,
    current_database() AS database,
    (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) AS connections,
    (SELECT count(*) FROM pg_locks WHERE NOT granted) AS waiting_locks,
    (SELECT coalesce(extract(epoch FROM max(clock_timestamp() - xact_start)), 0)
        FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
    ) AS oldest_transaction_seconds,
    (SELECT coalesce(max(held), 0) FROM (
        SELECT age(backend_xmin) AS held FROM pg_stat_activity WHERE pid <> pg_backend_pid()
        UNION ALL SELECT greatest(age(xmin), age(catalog_xmin)) FROM pg_replication_slots
        UNION ALL SELECT age(transaction) FROM pg_prepared_xacts
    ) AS holders) AS oldest_snapshot_transactions,
    (SELECT coalesce(sum(n_live_tup), 0) FROM pg_stat_user_tables WHERE schemaname = %(schema)s::text) AS rows,
    (SELECT coalesce(sum(n_dead_tup), 0) FROM pg_stat_user_tables WHERE schemaname = %(schema)s::text) AS dead_rows,
    (SELECT coalesce(100 * sum(n_tup_hot_upd) / nullif(sum(n_tup_upd), 0), 100)
        FROM pg_stat_user_tables WHERE schemaname = %(schema)s::text) AS hot_updates_percent,
    (SELECT count(*) FROM pg_stat_user_tables WHERE schemaname = %(schema)s::text AND n_dead_tup > 1000
        AND coalesce(greatest(last_autovacuum, last_vacuum) < now() - interval '1 hour', true)
    ) AS tables_not_vacuumed_for_an_hour,
    (SELECT coalesce(string_agg(relname, ', ' ORDER BY n_dead_tup DESC), '') FROM (
        SELECT relname, n_dead_tup FROM pg_stat_user_tables
        WHERE schemaname = %(schema)s::text AND n_dead_tup > 1000 AND n_dead_tup > n_live_tup
    ) AS bloated) AS bloated_tables
"""
REPLICAS = """
SELECT
    count(*) AS replicas,
    count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')) AS synchronous_replicas,
    coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)), 0) AS replication_lag_bytes,
    coalesce(max(extract(epoch FROM replay_lag)), 0) AS replication_lag_seconds
FROM pg_stat_replication
"""
MAY_SEE = "SELECT pg_has_role('pg_read_all_stats', 'USAGE') AND NOT pg_is_in_recovery()"


async def engine_facts(connection: Connection, schema: str) -> dict[str, str | int]:
    """Return facts about the engine. Nothing of this waits for a lock of a table.

    Only roles that are members of `pg_monitor` see what other roles do, and replicas; for others, `replicas` says so.
    """
    found = await _row(connection, FACTS, schema=schema)
    [may_see] = (await _row(connection, MAY_SEE)).values()
    found |= await _row(connection, REPLICAS) if may_see else {"replicas": "unknown: grant pg_monitor"}
    return {name: value if isinstance(value, str) else round(value) for name, value in found.items()}


async def _row(connection: Connection, query: str, **given: str) -> dict[str, Any]:
    """Return the one row of a query, by the names of its columns."""
    cursor = await connection.execute(query.encode(), given or None)
    [row] = await cursor.fetchall()
    assert cursor.description is not None
    return {column.name: value for column, value in zip(cursor.description, row, strict=True)}
