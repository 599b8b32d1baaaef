-- Version 1: the functions of the queue. Each is one statement of a node, and one transaction.
-- A function sees what was committed before each of its statements, so none acts on what was read long before.

CREATE FUNCTION nodekit.engine_time() RETURNS double precision LANGUAGE sql VOLATILE AS $$
    SELECT extract(epoch FROM clock_timestamp())::double precision
$$;

-- A claim, or a renewal, that is lost with the engine's memory harms nobody: the job is queued, or the lease is over.
CREATE FUNCTION nodekit.without_fsync() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
END
$$;

-- Numbers rise with the transactions that give them: once all transactions below one have ended, none comes below it.
CREATE FUNCTION nodekit.next_finish_number() RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    given integer := coalesce(nullif(current_setting('nodekit_postgres.given', true), ''), '0')::integer;
BEGIN
    IF given >= 1023 THEN
        RAISE EXCEPTION 'one transaction finishes more than 1023 jobs';
    END IF;
    PERFORM set_config('nodekit_postgres.given', (given + 1)::text, true);
    RETURN coalesce((SELECT finish_base FROM nodekit.about), 0) + pg_current_xact_id()::text::bigint * 1024 + given;
END
$$;

CREATE FUNCTION nodekit.finished_below() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT coalesce((SELECT finish_base FROM nodekit.about), 0)
        + pg_snapshot_xmin(pg_current_snapshot())::text::bigint * 1024
$$;

CREATE FUNCTION nodekit.expiry(p_created double precision, p_due double precision, p_timeout double precision,
    p_queue_timeout double precision) RETURNS double precision LANGUAGE sql IMMUTABLE AS $$
    SELECT least(p_created + p_timeout, p_due + p_queue_timeout)
$$;

CREATE FUNCTION nodekit.count_jobs(p_shard integer, p_groups bytea[], p_onchain boolean[], p_sign integer)
RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    INSERT INTO nodekit.counts AS c (grp, shard, jobs)
        SELECT g, p_shard, p_sign * count(*) FROM unnest(p_groups) AS g GROUP BY g ORDER BY g
        ON CONFLICT (grp, shard) DO UPDATE SET jobs = c.jobs + excluded.jobs;
    INSERT INTO nodekit.totals AS t (shard, offchain, onchain)
        SELECT p_shard, p_sign * count(*) FILTER (WHERE NOT o), p_sign * count(*) FILTER (WHERE o)
        FROM unnest(p_onchain) AS o
        ON CONFLICT (shard) DO UPDATE SET offchain = t.offchain + excluded.offchain,
            onchain = t.onchain + excluded.onchain;
END
$$;

-- Delete the counts of groups without unfinished jobs, among those behind one. Return the last group that was looked at,
-- or null after the last one. Counts that somebody changes at this moment stay: any that add up to nothing may go.
CREATE FUNCTION nodekit.forget_groups(p_after bytea, p_limit integer) RETURNS bytea LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    looked record;
    idle record;
    number integer := 0;
BEGIN
    PERFORM nodekit.without_fsync();
    FOR looked IN
        SELECT grp, sum(jobs) AS jobs FROM nodekit.counts WHERE grp > p_after GROUP BY grp ORDER BY grp LIMIT p_limit
    LOOP
        number := number + 1;
        CONTINUE WHEN looked.jobs <> 0;
        SELECT sum(jobs) AS jobs, array_agg(shard) AS shards INTO idle FROM (
            SELECT shard, jobs FROM nodekit.counts WHERE grp = looked.grp ORDER BY shard FOR UPDATE SKIP LOCKED
        ) held;
        IF idle.jobs = 0 THEN
            DELETE FROM nodekit.counts WHERE grp = looked.grp AND shard = ANY (idle.shards);
        END IF;
    END LOOP;
    RETURN CASE WHEN number = p_limit THEN looked.grp END;
END
$$;

CREATE FUNCTION nodekit.know_kind(p_due bytea, p_pipeline bytea, p_suspect boolean, p_priority smallint)
RETURNS void LANGUAGE sql VOLATILE AS $$
    INSERT INTO nodekit.rotations (due, pipeline, suspect, priority) VALUES (p_due, p_pipeline, p_suspect, p_priority)
        ON CONFLICT DO NOTHING
$$;

-- Store new jobs and queue them, or give them to a session. Of each, return the id under which it is stored.
-- A record of the kind 2 has the output of the same number of the job that is retried.
CREATE FUNCTION nodekit.add_jobs(
    p_shard integer, p_session uuid, p_token uuid,
    p_ids bytea[], p_clients bytea[], p_keys bytea[], p_statuses text[], p_states bytea[], p_requests bytea[],
    p_steps integer[], p_retried bytea[], p_dues bytea[], p_pipelines bytea[], p_priorities smallint[],
    p_groups bytea[], p_onchain boolean[], p_streams boolean[], p_not_before double precision[],
    p_delays double precision[], p_timeouts double precision[], p_queue_timeouts double precision[],
    p_attempts integer[],
    p_owners integer[], p_numbers integer[], p_kinds smallint[], p_outlines bytea[], p_outputs bytea[]
) RETURNS TABLE (stored bytea, fresh boolean) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now double precision := nodekit.engine_time();
    due_at double precision;
    added_groups bytea[] := '{}';
    added_onchain boolean[] := '{}';
    new_bytes bigint;
    copied integer;
    missing integer;
BEGIN
    IF p_session IS NOT NULL AND NOT EXISTS (
        SELECT FROM nodekit.sessions WHERE id = p_session AND lapses_at >= now FOR SHARE
    ) THEN
        RAISE EXCEPTION 'the session of this node is over' USING ERRCODE = 'NK001';
    END IF;
    FOR i IN 1 .. cardinality(p_ids) LOOP
        SELECT coalesce(sum(length(r.output)) FILTER (WHERE r.kind = 1), 0), count(*) FILTER (WHERE r.kind = 2)
            INTO new_bytes, copied
            FROM unnest(p_owners, p_kinds, p_outputs) AS r (owner, kind, output) WHERE r.owner = i;
        INSERT INTO nodekit.jobs (id, client, idempotency_key, status, steps, size, state, request) VALUES
            (p_ids[i], p_clients[i], p_keys[i], p_statuses[i], p_steps[i], new_bytes, p_states[i], p_requests[i])
            ON CONFLICT DO NOTHING;
        fresh := FOUND;
        IF NOT fresh THEN
            stored := coalesce(
                (SELECT id FROM nodekit.jobs WHERE id = p_ids[i]),
                (SELECT id FROM nodekit.jobs WHERE client = p_clients[i] AND idempotency_key = p_keys[i])
            );
            RETURN NEXT;
            CONTINUE;
        END IF;
        INSERT INTO nodekit.records (job, number, outline, output)
            SELECT p_ids[i], r.number, r.outline, CASE r.kind WHEN 1 THEN r.output WHEN 2 THEN
                (SELECT o.output FROM nodekit.records o WHERE o.job = p_retried[i] AND o.number = r.number) END
            FROM unnest(p_owners, p_numbers, p_kinds, p_outlines, p_outputs) AS r (owner, number, kind, outline, output)
            WHERE r.owner = i;
        IF copied > 0 THEN
            SELECT count(*) INTO missing
                FROM unnest(p_owners, p_numbers, p_kinds) AS r (owner, number, kind)
                JOIN nodekit.records k ON k.job = p_ids[i] AND k.number = r.number
                WHERE r.owner = i AND r.kind = 2 AND k.output IS NULL;
            IF missing > 0 THEN
                RAISE EXCEPTION 'the job that is retried has been deleted meanwhile' USING ERRCODE = 'NK002';
            END IF;
            UPDATE nodekit.jobs SET size =
                    coalesce((SELECT sum(length(output)) FROM nodekit.records WHERE job = p_ids[i]), 0)
                WHERE id = p_ids[i];
        END IF;
        due_at := now + greatest(0, least(p_not_before[i] - now, p_delays[i]));
        due_at := coalesce(CASE WHEN p_not_before[i] IS NOT NULL THEN due_at END, now);
        PERFORM nodekit.know_kind(p_dues[i], p_pipelines[i], false, p_priorities[i]);
        INSERT INTO nodekit.live (
            id, due, pipeline, priority, grp, ready, streams, onchain, created_at, due_at, expires_at,
            timeout_seconds, queue_timeout_seconds, session, token, since, next_due, ended_steps, attempt
        ) VALUES (
            p_ids[i], p_dues[i], p_pipelines[i], p_priorities[i], p_groups[i],
            NOT p_streams[i] AND due_at <= now AND p_token IS NULL, p_streams[i], p_onchain[i], now, due_at,
            nodekit.expiry(now, due_at, p_timeouts[i], p_queue_timeouts[i]), p_timeouts[i], p_queue_timeouts[i],
            p_session, p_token, CASE WHEN p_token IS NOT NULL THEN now END, p_dues[i], p_steps[i], p_attempts[i]
        );
        added_groups := added_groups || p_groups[i];
        added_onchain := added_onchain || p_onchain[i];
        stored := p_ids[i];
        RETURN NEXT;
    END LOOP;
    IF cardinality(added_groups) > 0 THEN
        PERFORM nodekit.count_jobs(p_shard, added_groups, added_onchain, 1);
    END IF;
END
$$;

-- Make the jobs ready whose delay is over.
CREATE FUNCTION nodekit.wake() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE nodekit.live SET ready = true WHERE id IN (
        SELECT id FROM nodekit.live
        WHERE NOT ready AND token IS NULL AND NOT streams AND due_at <= nodekit.engine_time()
        ORDER BY due_at LIMIT 1000 FOR UPDATE SKIP LOCKED
    );
END
$$;

-- Take those of some claimed jobs out of the queue that somebody has deleted. Their counts go to a shard of its own.
CREATE FUNCTION nodekit.forget_deleted(p_ids bytea[]) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    groups bytea[];
    onchain_jobs boolean[];
BEGIN
    WITH gone AS (
        DELETE FROM nodekit.live WHERE id IN (
            SELECT l.id FROM nodekit.live l WHERE l.id = ANY (p_ids) AND l.token IS NOT NULL
                AND NOT EXISTS (SELECT FROM nodekit.jobs j WHERE j.id = l.id)
            ORDER BY l.id FOR UPDATE SKIP LOCKED
        ) RETURNING grp, onchain
    ) SELECT array_agg(grp), array_agg(onchain) INTO groups, onchain_jobs FROM gone;
    IF groups IS NOT NULL THEN
        PERFORM nodekit.count_jobs(-1, groups, onchain_jobs, -1);
        UPDATE nodekit.about SET deleted_at = nodekit.engine_time();
    END IF;
END
$$;

-- What a claimant gets of a job: its row, its data and outlines, and its last output.
CREATE FUNCTION nodekit.claimed_jobs(p_ids bytea[])
RETURNS TABLE (
    id bytea, takeovers integer, age double precision, client bytea, state bytea, request bytea, revision integer,
    data bytea, outlines bytea[], last_number integer, last_output bytea
) LANGUAGE sql VOLATILE AS $$
    SELECT j.id, l.takeovers, nodekit.engine_time() - l.created_at, j.client, j.state, j.request, j.revision,
        (SELECT output FROM nodekit.records WHERE job = j.id AND number = 0),
        (SELECT array_agg(outline ORDER BY number) FROM nodekit.records WHERE job = j.id AND number > 0),
        r.number, r.output
    FROM unnest(p_ids) WITH ORDINALITY AS t (id, place)
    JOIN nodekit.jobs j ON j.id = t.id
    JOIN nodekit.live l ON l.id = t.id
    LEFT JOIN LATERAL (
        SELECT number, output FROM nodekit.records
        WHERE job = j.id AND number > 0 AND output IS NOT NULL ORDER BY number DESC LIMIT 1
    ) r ON true
    ORDER BY t.place
$$;

CREATE FUNCTION nodekit.session_lives(p_session uuid) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM FROM nodekit.sessions WHERE id = p_session AND lapses_at >= nodekit.engine_time() FOR KEY SHARE;
    RETURN FOUND;
END
$$;

-- The kinds that have a job for a claim. Each is looked up in the index: planners turn EXISTS into a scan of all jobs, and
-- would scan them for any one of them, too, were it not the first in an order that only the index has.
CREATE FUNCTION nodekit.waiting_kinds(p_dues bytea[], p_pipelines bytea[], p_suspects boolean)
RETURNS SETOF nodekit.rotations LANGUAGE sql VOLATILE AS $$
    SELECT r.* FROM nodekit.rotations r CROSS JOIN LATERAL (
        SELECT l.grp FROM nodekit.live l WHERE l.ready AND l.due = r.due AND l.pipeline = r.pipeline
            AND l.suspect = r.suspect AND l.priority = r.priority ORDER BY l.grp LIMIT 1
    ) waiting
    WHERE r.due = ANY (p_dues) AND (p_pipelines IS NULL OR r.pipeline = ANY (p_pipelines))
        AND (p_suspects OR NOT r.suspect)
$$;

-- The next group of a kind, behind the last one, that has a job and is not full; and its oldest job, which is locked.
-- A job that another transaction changes at this moment is passed over: its change wakes who waits for it.
CREATE FUNCTION nodekit.next_job(
    p_due bytea, p_pipeline bytea, p_suspect boolean, p_priority smallint, p_last bytea, p_full bytea[],
    OUT found_group bytea, OUT found_id bytea
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    after_group bytea := coalesce(p_last, '');
    wrapped boolean := p_last IS NULL;
BEGIN
    LOOP
        SELECT l.grp INTO found_group FROM nodekit.live l
            WHERE l.ready AND l.due = p_due AND l.pipeline = p_pipeline AND l.suspect = p_suspect
                AND l.priority = p_priority AND l.grp > after_group
            ORDER BY l.grp LIMIT 1;
        IF found_group IS NULL OR (wrapped AND found_group > p_last) THEN
            IF wrapped THEN
                found_group := NULL;
                RETURN;
            END IF;
            wrapped := true;
            after_group := '';
            CONTINUE;
        END IF;
        after_group := found_group;
        CONTINUE WHEN found_group = ANY (p_full);
        SELECT l.id INTO found_id FROM nodekit.live l
            WHERE l.ready AND l.due = p_due AND l.pipeline = p_pipeline AND l.suspect = p_suspect
                AND l.priority = p_priority AND l.grp BETWEEN found_group AND found_group
            ORDER BY l.grp, l.id LIMIT 1 FOR UPDATE SKIP LOCKED;  -- the order of this index, and not of that by id
        IF found_id IS NOT NULL THEN
            RETURN;
        END IF;
    END LOOP;
END
$$;

-- Claim jobs: by priority, then groups in turn, then oldest first. One claim is made at a time, and none waits for a
-- disk. Kinds of one priority take turns, too. Without jobs, return one row without an id, whose age is the time until
-- a delayed one is due.
CREATE FUNCTION nodekit.claim(
    p_session uuid, p_token uuid, p_dues bytea[], p_pipelines bytea[], p_limit integer, p_suspects boolean,
    p_each integer, p_groups bytea[], p_numbers integer[], p_most_bytes bigint
) RETURNS TABLE (
    id bytea, takeovers integer, age double precision, client bytea, state bytea, request bytea, revision integer,
    data bytea, outlines bytea[], last_number integer, last_output bytea
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    now double precision := nodekit.engine_time();
    taken bytea[] := '{}';
    taken_groups bytea[] := '{}';
    full_groups bytea[] := '{}';
    bytes bigint := 0;
    job_bytes bigint;
    kind record;
    alone boolean := false;
    next_group bytea;
    next_id bytea;
    room integer;
    given integer;
BEGIN
    PERFORM nodekit.without_fsync();
    PERFORM nodekit.wake();
    IF NOT EXISTS (SELECT FROM nodekit.waiting_kinds(p_dues, p_pipelines, p_suspects)) THEN
        age := (SELECT min(due_at) FROM nodekit.live WHERE NOT ready AND token IS NULL AND NOT streams) - now;
        RETURN NEXT;
        RETURN;
    END IF;
    IF NOT nodekit.session_lives(p_session) THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock('nodekit.rotations'::regclass::oid::integer, 1);
    full_groups := coalesce((SELECT array_agg(g) FROM unnest(p_groups, p_numbers) AS u (g, n) WHERE n < 1), '{}');
    WHILE cardinality(taken) < p_limit LOOP
        IF alone THEN
            SELECT * INTO next_group, next_id FROM nodekit.next_job(
                kind.due, kind.pipeline, kind.suspect, kind.priority, next_group, full_groups);
            IF next_id IS NULL THEN
                alone := false;
                CONTINUE;
            END IF;
        ELSE
            next_id := NULL;
            FOR kind IN
                SELECT *, count(*) OVER (PARTITION BY priority) AS kinds
                FROM nodekit.waiting_kinds(p_dues, p_pipelines, p_suspects) ORDER BY priority, served
            LOOP
                SELECT * INTO next_group, next_id FROM nodekit.next_job(
                    kind.due, kind.pipeline, kind.suspect, kind.priority, kind.last_group, full_groups);
                EXIT WHEN next_id IS NOT NULL;
            END LOOP;
            EXIT WHEN next_id IS NULL;
            alone := kind.kinds = 1 AND NOT kind.suspect;
        END IF;
        IF p_most_bytes IS NOT NULL THEN
            SELECT size INTO job_bytes FROM nodekit.jobs j WHERE j.id = next_id;
            bytes := bytes + job_bytes;
            EXIT WHEN cardinality(taken) > 0 AND bytes > p_most_bytes;
        END IF;
        UPDATE nodekit.live l SET ready = false, session = p_session, token = p_token, since = now
            WHERE l.id = next_id;
        UPDATE nodekit.rotations r SET last_group = next_group, served = nextval('nodekit.turns')
            WHERE r.due = kind.due AND r.pipeline = kind.pipeline AND r.suspect = kind.suspect
                AND r.priority = kind.priority;
        taken := taken || next_id;
        p_suspects := p_suspects AND NOT kind.suspect;
        IF p_each IS NOT NULL THEN
            taken_groups := taken_groups || next_group;
            room := coalesce(
                (SELECT n FROM unnest(p_groups, p_numbers) AS u (g, n) WHERE g = next_group), p_each);
            IF (SELECT count(*) FROM unnest(taken_groups) AS g WHERE g = next_group) >= room THEN
                full_groups := full_groups || next_group;
            END IF;
        END IF;
    END LOOP;
    RETURN QUERY SELECT * FROM nodekit.claimed_jobs(taken);
    GET DIAGNOSTICS given = ROW_COUNT;
    IF given < cardinality(taken) THEN  -- somebody has deleted the others: look again at once
        PERFORM nodekit.forget_deleted(taken);
        age := 0;
        RETURN NEXT;
    END IF;
END
$$;

-- Claim jobs whose time is over. Without any, return one row without an id, whose age is the time until there is one.
CREATE FUNCTION nodekit.claim_expired(p_session uuid, p_token uuid, p_limit integer, p_most_bytes bigint)
RETURNS TABLE (
    id bytea, takeovers integer, age double precision, client bytea, state bytea, request bytea, revision integer,
    data bytea, outlines bytea[], last_number integer, last_output bytea
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    now double precision := nodekit.engine_time();
    taken bytea[] := '{}';
    bytes bigint := 0;
    job record;
BEGIN
    PERFORM nodekit.without_fsync();
    age := (SELECT min(expires_at) FROM nodekit.live WHERE token IS NULL AND expires_at IS NOT NULL AND NOT streams) - now;
    IF age IS NULL OR age > 0 THEN
        RETURN NEXT;
        RETURN;
    END IF;
    IF NOT nodekit.session_lives(p_session) THEN
        RETURN;
    END IF;
    FOR job IN
        SELECT l.id, coalesce(j.size, 0) AS size FROM nodekit.live l LEFT JOIN nodekit.jobs j ON j.id = l.id
        WHERE l.token IS NULL AND l.expires_at IS NOT NULL AND NOT l.streams AND l.expires_at <= now
        ORDER BY l.expires_at LIMIT p_limit FOR UPDATE OF l SKIP LOCKED
    LOOP
        bytes := bytes + job.size;
        EXIT WHEN cardinality(taken) > 0 AND bytes > p_most_bytes;
        UPDATE nodekit.live l SET ready = false, session = p_session, token = p_token, since = now WHERE l.id = job.id;
        taken := taken || job.id;
    END LOOP;
    PERFORM nodekit.forget_deleted(taken);
    RETURN QUERY SELECT * FROM nodekit.claimed_jobs(taken);
END
$$;

-- Queue claimed jobs again: those of a session, or some of its claims. A stream is left for `orphans`.
CREATE FUNCTION nodekit.requeue(p_session uuid, p_ids bytea[], p_tokens uuid[], p_lost integer)
RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    now double precision := nodekit.engine_time();
    job record;
    number integer := 0;
BEGIN
    FOR job IN
        SELECT * FROM nodekit.live l WHERE l.session = p_session
            AND (p_ids IS NULL OR (l.id, l.token) IN (SELECT * FROM unnest(p_ids, p_tokens)))
        ORDER BY l.id FOR UPDATE
    LOOP
        PERFORM nodekit.know_kind(job.next_due, job.pipeline, job.takeovers + p_lost > 0, job.priority);
        UPDATE nodekit.live SET session = NULL, token = NULL, since = NULL, ready = NOT streams, due = next_due,
            due_at = now, expires_at = nodekit.expiry(created_at, now, timeout_seconds, queue_timeout_seconds),
            takeovers = takeovers + p_lost, suspect = takeovers + p_lost > 0
            WHERE id = job.id;
        number := number + 1;
    END LOOP;
    RETURN number;
END
$$;
