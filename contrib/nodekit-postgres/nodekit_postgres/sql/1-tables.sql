-- Version 1: the tables. `nodekit` stands for the schema of the settings.
-- Texts of others are `bytea` in UTF-8, since `text` has no zero byte; so they are also sorted by code points.

-- One row: the version of this schema, and the oldest version that a node may know and still work with it. `deleted_at` is
-- when it was last found that somebody had deleted jobs that had not ended.
CREATE TABLE nodekit.about (
    version integer NOT NULL,
    oldest_node integer NOT NULL,
    finish_base bigint NOT NULL DEFAULT 0,
    deleted_at double precision
);

-- A job's row changes with each step; no index has a column that does, before the job ends. `steps` counts ended steps.
CREATE TABLE nodekit.jobs (
    id bytea PRIMARY KEY,
    client bytea NOT NULL,
    idempotency_key bytea,
    status text NOT NULL,
    revision integer NOT NULL DEFAULT 0,
    steps integer NOT NULL,
    size bigint NOT NULL,
    error_container bytea,
    error bytea,
    finish_number bigint,
    finished_at double precision,
    state bytea NOT NULL,
    request bytea NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);
CREATE INDEX jobs_of_client ON nodekit.jobs (client, id);
CREATE UNIQUE INDEX jobs_by_key ON nodekit.jobs (client, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX jobs_finished ON nodekit.jobs (finish_number, client) WHERE finish_number IS NOT NULL;
CREATE INDEX jobs_failed ON nodekit.jobs (id) WHERE error IS NOT NULL;

-- The data of a job (number 0) and its ended steps. An output stands apart, so that a step can be read without it.
CREATE TABLE nodekit.records (
    job bytea NOT NULL,
    number integer NOT NULL,
    outline bytea NOT NULL,
    output bytea,
    PRIMARY KEY (job, number)
) WITH (autovacuum_vacuum_scale_factor = 0.02);

-- The unfinished jobs: those that wait and those that are claimed. `next_due` is where a claimed job will be due.
CREATE TABLE nodekit.live (
    id bytea PRIMARY KEY,
    due bytea NOT NULL,
    pipeline bytea NOT NULL,
    suspect boolean NOT NULL DEFAULT false,
    priority smallint NOT NULL,
    grp bytea NOT NULL,
    ready boolean NOT NULL,
    streams boolean NOT NULL,
    onchain boolean NOT NULL,
    created_at double precision NOT NULL,
    due_at double precision NOT NULL,
    expires_at double precision,
    timeout_seconds double precision,
    queue_timeout_seconds double precision,
    session uuid,
    token uuid,
    since double precision,
    next_due bytea NOT NULL,
    ended_steps integer NOT NULL,
    attempt integer NOT NULL DEFAULT 1,
    takeovers integer NOT NULL DEFAULT 0
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0);
CREATE INDEX live_ready ON nodekit.live (due, pipeline, suspect, priority, grp, id) WHERE ready;
CREATE INDEX live_delayed ON nodekit.live (due_at) WHERE NOT ready AND token IS NULL AND NOT streams;
CREATE INDEX live_limits ON nodekit.live (expires_at) WHERE token IS NULL AND expires_at IS NOT NULL AND NOT streams;
CREATE INDEX live_orphans ON nodekit.live (id) WHERE streams AND token IS NULL;
CREATE INDEX live_of_session ON nodekit.live (session) WHERE session IS NOT NULL;

-- The kinds of jobs that were ever queued, and where the turns of the groups stand in each.
CREATE TABLE nodekit.rotations (
    due bytea NOT NULL,
    pipeline bytea NOT NULL,
    suspect boolean NOT NULL,
    priority smallint NOT NULL,
    last_group bytea,
    served bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (due, pipeline, suspect, priority)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE SEQUENCE nodekit.turns;

-- The numbers of unfinished jobs. Each connection that writes has a shard of its own, so that none waits for another.
CREATE TABLE nodekit.counts (
    grp bytea NOT NULL,
    shard integer NOT NULL,
    jobs bigint NOT NULL,
    PRIMARY KEY (grp, shard)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE TABLE nodekit.totals (
    shard integer PRIMARY KEY,
    offchain bigint NOT NULL,
    onchain bigint NOT NULL
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- A store that is entered. `steady_since` is when it began to renew without a gap.
CREATE TABLE nodekit.sessions (
    id uuid PRIMARY KEY,
    slot integer NOT NULL UNIQUE,
    lapses_at double precision NOT NULL,
    seen_at double precision NOT NULL,
    steady_since double precision NOT NULL
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
CREATE TABLE nodekit.members (
    incarnation bytea PRIMARY KEY,
    session uuid,
    name bytea NOT NULL,
    seen_at double precision NOT NULL,
    announcement bytea NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
CREATE INDEX members_of_session ON nodekit.members (session);

-- Records of plugins. A sequence never gives a version twice.
CREATE TABLE nodekit.plugin_records (
    namespace bytea NOT NULL,
    key bytea NOT NULL,
    value bytea NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (namespace, key)
);
CREATE SEQUENCE nodekit.versions;
