-- Version 1: writes under a claim, and sessions. A write is fenced by the token of its claim.

-- Save a job, release it, or end it. Return its finish number, 0 without one, and null if the claim is lost.
CREATE FUNCTION nodekit.save_job(
    p_shard integer, p_id bytea, p_token uuid, p_status text, p_state bytea, p_steps integer, p_attempt integer,
    p_due bytea, p_queue_timeout double precision, p_delay double precision,
    p_numbers integer[], p_kinds smallint[], p_outlines bytea[], p_outputs bytea[],
    p_outcome_bytes bigint, p_error_container bytea, p_error bytea, p_finished_at double precision
) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now double precision := nodekit.engine_time();
    held nodekit.live;
    grown bigint;
    finish bigint;
    lost integer;
BEGIN
    SELECT * INTO held FROM nodekit.live WHERE id = p_id AND token = p_token
        AND EXISTS (SELECT FROM nodekit.jobs WHERE id = p_id) FOR UPDATE;  -- somebody may have deleted it by hand
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    WITH added AS (
        INSERT INTO nodekit.records (job, number, outline, output)
            SELECT p_id, r.number, r.outline, CASE r.kind WHEN 1 THEN r.output END
            FROM unnest(p_numbers, p_kinds, p_outlines, p_outputs) AS r (number, kind, outline, output)
            ON CONFLICT DO NOTHING RETURNING length(output) AS size
    ) SELECT coalesce(sum(size), 0) INTO grown FROM added;
    IF p_finished_at IS NOT NULL THEN
        finish := nodekit.next_finish_number();
        UPDATE nodekit.jobs SET status = p_status, state = p_state, steps = p_steps, revision = revision + 1,
            size = size + grown + p_outcome_bytes, error_container = p_error_container, error = p_error,
            finish_number = finish, finished_at = p_finished_at WHERE id = p_id;
        DELETE FROM nodekit.live WHERE id = p_id;
        PERFORM nodekit.count_jobs(p_shard, ARRAY[held.grp], ARRAY[held.onchain], -1);
        RETURN finish;
    END IF;
    UPDATE nodekit.jobs SET status = p_status, state = p_state, steps = p_steps, revision = revision + 1,
        size = size + grown WHERE id = p_id;
    lost := CASE WHEN p_steps > held.ended_steps THEN 0 ELSE held.takeovers END;
    IF p_delay IS NULL THEN
        UPDATE nodekit.live SET next_due = p_due, queue_timeout_seconds = p_queue_timeout, ended_steps = p_steps,
            attempt = p_attempt, since = now, takeovers = lost WHERE id = p_id;
    ELSE
        PERFORM nodekit.know_kind(p_due, held.pipeline, lost > 0, held.priority);
        UPDATE nodekit.live SET next_due = p_due, due = p_due, queue_timeout_seconds = p_queue_timeout,
            ended_steps = p_steps, attempt = p_attempt, takeovers = lost, suspect = lost > 0,
            session = NULL, token = NULL, since = NULL, ready = p_delay <= 0, due_at = now + p_delay,
            expires_at = nodekit.expiry(created_at, now + p_delay, timeout_seconds, p_queue_timeout) WHERE id = p_id;
    END IF;
    RETURN 0;
END
$$;

-- End a job without a claim, if it is still as it was read. Return its finish number, or null.
CREATE FUNCTION nodekit.settle_job(
    p_shard integer, p_id bytea, p_revision integer, p_status text, p_state bytea, p_steps integer,
    p_outcome_bytes bigint, p_error_container bytea, p_error bytea, p_finished_at double precision, p_orphan boolean
) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    held nodekit.live;
    finish bigint;
BEGIN
    SELECT * INTO held FROM nodekit.live WHERE id = p_id AND (NOT p_orphan OR token IS NULL) FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    UPDATE nodekit.jobs SET status = p_status, state = p_state, steps = p_steps, revision = revision + 1,
        size = size + p_outcome_bytes, error_container = p_error_container, error = p_error,
        finished_at = p_finished_at WHERE id = p_id AND revision = p_revision AND finish_number IS NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    finish := nodekit.next_finish_number();
    UPDATE nodekit.jobs SET finish_number = finish WHERE id = p_id;
    DELETE FROM nodekit.live WHERE id = p_id;
    PERFORM nodekit.count_jobs(p_shard, ARRAY[held.grp], ARRAY[held.onchain], -1);
    RETURN finish;
END
$$;

-- Delete finished jobs. Return how many.
CREATE FUNCTION nodekit.delete_jobs(p_ids bytea[]) RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    gone bytea[];
BEGIN
    WITH deleted AS (
        DELETE FROM nodekit.jobs WHERE id IN (
            SELECT id FROM nodekit.jobs WHERE id = ANY (p_ids) AND finish_number IS NOT NULL
            ORDER BY id FOR UPDATE SKIP LOCKED
        ) RETURNING id
    ) SELECT coalesce(array_agg(id), '{}') INTO gone FROM deleted;
    DELETE FROM nodekit.records WHERE job = ANY (gone);
    RETURN cardinality(gone);
END
$$;

-- The highest finish number that is surplus if so many jobs are kept. This walks along the index of those.
CREATE FUNCTION nodekit.last_surplus(p_keep bigint) RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT finish_number FROM nodekit.jobs WHERE finish_number IS NOT NULL
        ORDER BY finish_number DESC OFFSET p_keep LIMIT 1
$$;

-- Delete finished jobs, first those that finished first, before a time or down to a finish number.
CREATE FUNCTION nodekit.expire_jobs(p_before double precision, p_surplus bigint, p_limit integer)
RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN nodekit.delete_jobs(ARRAY(
        SELECT id FROM (
            SELECT id, finish_number, finished_at FROM nodekit.jobs WHERE finish_number IS NOT NULL
            ORDER BY finish_number LIMIT p_limit
        ) first WHERE finished_at < p_before OR finish_number <= p_surplus
    ));
END
$$;

-- Begin a session. Return its number among those that there are.
CREATE FUNCTION nodekit.begin_session(p_session uuid, p_lease double precision)
RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now double precision := nodekit.engine_time();
    free integer;
BEGIN
    PERFORM pg_advisory_xact_lock('nodekit.rotations'::regclass::oid::integer, 2);
    SELECT min(n) INTO free FROM generate_series(0, (SELECT count(*) FROM nodekit.sessions)) AS n
        WHERE NOT EXISTS (SELECT FROM nodekit.sessions WHERE slot = n);
    INSERT INTO nodekit.sessions (id, slot, lapses_at, seen_at, steady_since) VALUES
        (p_session, free, now + p_lease, now, now);
    RETURN free;
END
$$;

-- Renew a session, and take over the claims of those that are over. Every node does so, again and again.
-- A node that was cut off itself takes nothing over for a lease, since the others were perhaps cut off, too.
-- It waits for nobody: a node that stands still may do so in a transaction, which holds some of its jobs. They are taken
-- over once it has been ended, and its session stays until then.
CREATE FUNCTION nodekit.beat(p_session uuid, p_lease double precision)
RETURNS TABLE (
    alive boolean, engine_time double precision, ids bytea[], tokens uuid[], taken_over integer, orphans bytea[],
    deleted_at double precision
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    now double precision := nodekit.engine_time();
    steady double precision;
    dead record;
    free_ids bytea[];
    free_tokens uuid[];
BEGIN
    PERFORM nodekit.without_fsync();
    UPDATE nodekit.sessions SET lapses_at = now + p_lease, seen_at = now,
        steady_since = CASE WHEN lapses_at < now THEN now ELSE least(steady_since, now) END
        WHERE id = p_session RETURNING steady_since INTO steady;
    alive := FOUND;
    engine_time := now;
    taken_over := 0;
    -- What was seen in times to come was seen before the clock was set back: its lease would last for longer by as much.
    UPDATE nodekit.sessions SET lapses_at = lapses_at - seen_at + nodekit.engine_time(), seen_at = nodekit.engine_time()
        WHERE id IN (
            SELECT id FROM nodekit.sessions WHERE seen_at > nodekit.engine_time() + 1 ORDER BY id FOR UPDATE SKIP LOCKED
        );
    IF steady <= now - p_lease THEN
        FOR dead IN
            SELECT id, seen_at FROM nodekit.sessions WHERE lapses_at < now ORDER BY id FOR UPDATE SKIP LOCKED
        LOOP
            UPDATE nodekit.members SET session = NULL, seen_at = dead.seen_at WHERE session = dead.id;
            SELECT coalesce(array_agg(id), '{}'), array_agg(token) INTO free_ids, free_tokens FROM (
                SELECT id, token FROM nodekit.live WHERE session = dead.id ORDER BY id FOR UPDATE SKIP LOCKED
            ) free;
            PERFORM nodekit.requeue(dead.id, free_ids, free_tokens, 1);
            DELETE FROM nodekit.sessions WHERE id = dead.id
                AND NOT EXISTS (SELECT FROM nodekit.live WHERE session = dead.id);
            taken_over := taken_over + CASE WHEN FOUND OR cardinality(free_ids) > 0 THEN 1 ELSE 0 END;
        END LOOP;
        DELETE FROM nodekit.members WHERE session IS NULL AND seen_at < now - 3600;
    END IF;
    PERFORM nodekit.forget_deleted(  -- a few at a time: so the cost of a renewal does not grow with the claims
        ARRAY(SELECT id FROM nodekit.live WHERE session = p_session ORDER BY random() LIMIT 10));
    deleted_at := (SELECT deleted_at FROM nodekit.about);
    SELECT array_agg(id), array_agg(token) INTO ids, tokens FROM nodekit.live WHERE session = p_session;
    orphans := ARRAY(SELECT id FROM nodekit.live WHERE streams AND token IS NULL ORDER BY id LIMIT 100);
    RETURN NEXT;
END
$$;

-- End a session: give back its claims. Return the streams that nobody holds now.
CREATE FUNCTION nodekit.end_session(p_session uuid) RETURNS bytea[] LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now double precision := nodekit.engine_time();
BEGIN
    PERFORM FROM nodekit.sessions WHERE id = p_session FOR UPDATE;
    UPDATE nodekit.members SET session = NULL, seen_at = now WHERE session = p_session;
    PERFORM nodekit.requeue(p_session, NULL, NULL, 0);
    DELETE FROM nodekit.sessions WHERE id = p_session;
    RETURN ARRAY(SELECT id FROM nodekit.live WHERE streams AND token IS NULL ORDER BY id LIMIT 100);
END
$$;

CREATE FUNCTION nodekit.announce(p_session uuid, p_incarnation bytea, p_name bytea, p_body bytea)
RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM nodekit.without_fsync();
    IF nodekit.session_lives(p_session) THEN
        INSERT INTO nodekit.members (incarnation, session, name, seen_at, announcement)
            VALUES (p_incarnation, p_session, p_name, nodekit.engine_time(), p_body)
            ON CONFLICT (incarnation) DO UPDATE SET session = excluded.session, name = excluded.name,
                seen_at = excluded.seen_at, announcement = excluded.announcement;
    END IF;
END
$$;

-- Change records of a plugin, all or none. Return their versions, or the place of the first condition that does not
-- hold, as a negative number, and the version that was found.
CREATE FUNCTION nodekit.write_records(
    p_namespace bytea, p_keys bytea[], p_deletes boolean[], p_values bytea[], p_expected bigint[]
) RETURNS bigint[] LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    found_version bigint;
    versions bigint[] := '{}';
BEGIN
    PERFORM pg_advisory_xact_lock('nodekit.plugin_records'::regclass::oid::integer, hashtext(encode(p_namespace, 'hex')));
    FOR i IN 1 .. cardinality(p_keys) LOOP
        IF p_expected[i] IS NOT NULL THEN
            SELECT coalesce(max(version), 0) INTO found_version FROM nodekit.plugin_records
                WHERE namespace = p_namespace AND key = p_keys[i];
            IF found_version <> p_expected[i] THEN
                RETURN ARRAY[-i, found_version];
            END IF;
        END IF;
    END LOOP;
    FOR i IN 1 .. cardinality(p_keys) LOOP
        IF p_deletes[i] THEN
            DELETE FROM nodekit.plugin_records WHERE namespace = p_namespace AND key = p_keys[i]
                RETURNING version INTO found_version;
            versions := versions || CASE WHEN FOUND THEN 1::bigint ELSE 0::bigint END;
        ELSE
            INSERT INTO nodekit.plugin_records AS r (namespace, key, value, version)
                VALUES (p_namespace, p_keys[i], p_values[i], nextval('nodekit.versions'))
                ON CONFLICT (namespace, key) DO UPDATE SET value = excluded.value, version = excluded.version
                RETURNING r.version INTO found_version;
            versions := versions || found_version;
        END IF;
    END LOOP;
    RETURN versions;
END
$$;
