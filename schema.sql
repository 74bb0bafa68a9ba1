-- The whole schema of TaskManager, for MySQL 5.7+, MariaDB 10.3+ and SQLite.
--
-- MySQL and MariaDB run this file unchanged, also through phpMyAdmin's "Import".
-- With a TASKMANAGER_TABLE_PREFIX, import the output of this command instead:
-- taskmanager init-db --print
--
-- SQLite skips what is inside /*! ... */. For SQLite, db/schema.py uncomments
-- what is inside /*sqlite ... */ and replaces two phrases that SQLite spells
-- differently: the auto-increment key, and the key whose ids may be used again.
-- SQLite's indexes leave out rows that no query looks for in them, so that a
-- task changes fewer pages.
--
-- Times (`..._at`) are whole milliseconds since 1970-01-01 UTC, written by the
-- application. JSON is stored as the text that was sent. Names, keys and ids
-- compare byte by byte (binary collation), the same on every database.
--
-- A change here is also a migration: see taskmanager/db/migrations.py.

CREATE TABLE schema_versions (
    version         INTEGER NOT NULL PRIMARY KEY,
    applied_at      BIGINT NOT NULL
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

-- Which steps of a migration have been done, and how far: see migrations.py.
CREATE TABLE migration_steps (
    name            VARCHAR(100) NOT NULL PRIMARY KEY,
    version         INTEGER NOT NULL,
    position        BIGINT NOT NULL DEFAULT 0,
    finished_at     BIGINT
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE TABLE task_types (
    id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    name            VARCHAR(255) NOT NULL,
    version         VARCHAR(50) NOT NULL,       -- the current one; its schema is in task_type_versions
    is_active       SMALLINT NOT NULL DEFAULT 1, -- 0: no new tasks
    is_paused       SMALLINT NOT NULL DEFAULT 0, -- 1: nothing is handed out
    priority        INTEGER,                     -- defaults for new tasks; NULL: the setting decides
    max_attempts    INTEGER,
    lease_seconds   INTEGER,
    retry           TEXT,                        -- JSON
    dedupe          VARCHAR(10),
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    concurrency     TEXT,                        -- JSON: how many tasks may be held at once
    start_rate      VARCHAR(50),                 -- such as 100/minute
    max_run_seconds INTEGER,
    fair            SMALLINT,                    -- 1: its groups of tasks take turns
    max_open        TEXT,                        -- JSON: how many tasks may be unfinished
    dedupe_days     INTEGER,                     -- how long a finished task holds its key; NULL: until it is pruned
    retention_days  INTEGER,                     -- NULL: the setting decides
    pruned_until    BIGINT,                      -- all its tasks finished before are gone
    notify          VARCHAR(255),                -- the name of a webhook endpoint
    is_encrypted    SMALLINT,                    -- 1: its new tasks are encrypted
    adopted_until   BIGINT,                      -- unfinished tasks after this id may lack the lane of no key
    CONSTRAINT task_types_name UNIQUE (name)
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE TABLE task_type_versions (
    id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    task_type_id    BIGINT NOT NULL,
    version         VARCHAR(50) NOT NULL,
    param_schema    MEDIUMTEXT NOT NULL,         -- JSON
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    CONSTRAINT task_type_versions_version UNIQUE (task_type_id, version),
    CONSTRAINT task_type_versions_type FOREIGN KEY (task_type_id) REFERENCES task_types (id)
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE TABLE tasks (
    id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    task_type_id    BIGINT NOT NULL,
    type_version    VARCHAR(50) NOT NULL,
    -- MariaDB changes this CHECK without copying the table only where it belongs to the column and
    -- has no name.
    status          VARCHAR(10) NOT NULL /*!80016 CONSTRAINT tasks_status */ CHECK (status IN
        ('scheduled', 'pending', 'claimed', 'completed', 'failed', 'cancelled', 'blocked')),
    params          MEDIUMTEXT NOT NULL,         -- JSON
    result          MEDIUMTEXT,                  -- JSON
    error_message   TEXT,
    error_code      VARCHAR(100),
    priority        INTEGER NOT NULL,
    claim_rank      INTEGER NOT NULL,            -- -priority: the claim index runs one way on every server
    progress        SMALLINT,
    progress_message TEXT,
    attempts        INTEGER NOT NULL DEFAULT 0,  -- claims counted, the present one included
    max_attempts    INTEGER NOT NULL,
    dedupe          VARCHAR(10) NOT NULL,
    dedupe_key      CHAR(64) NOT NULL,           -- SHA-256, see queue/dedupe.py
    holds_key_forever SMALLINT,                  -- 1 or NULL: NULL never collides in a unique index
    holds_key_while_open SMALLINT,               -- 1 until the task is finished, then NULL
    parent_task_id  BIGINT,
    worker_id       VARCHAR(255),                -- the latest holder
    claim_token     VARCHAR(64),                 -- names the latest attempt while it may still report
    claim_request_id VARCHAR(255),               -- of the claim that handed it out
    lease_seconds   INTEGER,                     -- what a renewal adds
    claimed_at      BIGINT,
    lease_expires_at BIGINT,                     -- set while claimed, else NULL
    available_at    BIGINT NOT NULL,             -- not handed out before
    completed_at    BIGINT,                      -- when it became completed, failed or cancelled
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    -- Since version 3. Nothing writes most of these yet: later capabilities find them here, because
    -- a table of millions of rows is better changed once.
    batch_id        BIGINT,
    tags            TEXT,                        -- JSON list
    group_key       VARCHAR(255),                -- empty: of a task without, where the type has lanes
    concurrency_key VARCHAR(255),                -- the same
    expires_at      BIGINT,                      -- cancelled then, if nobody has claimed it
    max_run_seconds INTEGER,                     -- how long an attempt may run
    on_dependency_failed VARCHAR(10),            -- cancel or run; NULL: it depends on no task
    dedupe_seconds  INTEGER,                     -- how long after its creation it holds its key
    dedupe_until    BIGINT,                      -- of a pruned task: it holds its key until then
    pruned_at       BIGINT,                      -- when its content was removed; only the key is kept
    traceparent     VARCHAR(64),
    notify          VARCHAR(255),                -- the name of a webhook endpoint
    payload_key     VARCHAR(32),                 -- the key that encrypted the row; NULL: not encrypted
    dependents      INTEGER,                     -- how many tasks have named it; NULL: nobody waits
    CONSTRAINT tasks_claim_rank CHECK (claim_rank = -priority),
    CONSTRAINT tasks_key_forever UNIQUE (dedupe_key, holds_key_forever),
    CONSTRAINT tasks_key_while_open UNIQUE (dedupe_key, holds_key_while_open),
    CONSTRAINT tasks_type FOREIGN KEY (task_type_id) REFERENCES task_types (id),
    CONSTRAINT tasks_parent FOREIGN KEY (parent_task_id) REFERENCES tasks (id) ON DELETE SET NULL
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

-- The claim: each sort order is an index read forwards or backwards. `id` closes them all.
CREATE INDEX tasks_claim_by_priority ON tasks (task_type_id, status, claim_rank, id);
-- `completed_at` is for the counting: all figures of all tasks are one pass over this index.
CREATE INDEX tasks_claim_by_id ON tasks (task_type_id, status, id, completed_at);
CREATE INDEX tasks_claim_by_attempts ON tasks (task_type_id, status, attempts, id) /*sqlite WHERE status = 'pending' */;
-- Lists.
CREATE INDEX tasks_by_priority ON tasks (claim_rank, id);
CREATE INDEX tasks_by_worker ON tasks (worker_id, status, id) /*sqlite WHERE worker_id IS NOT NULL */;
CREATE INDEX tasks_by_worker_and_priority ON tasks (worker_id, status, claim_rank, id) /*sqlite WHERE worker_id IS NOT NULL */;
CREATE INDEX tasks_by_parent ON tasks (parent_task_id) /*sqlite WHERE parent_task_id IS NOT NULL */;
-- Maintenance: what falls due, expires, or is old enough to prune. Tasks that were pruned but hold
-- their keys are apart from those that are still to be pruned.
CREATE INDEX tasks_by_available_at ON tasks (status, available_at) /*sqlite WHERE status = 'scheduled' */;
CREATE INDEX tasks_by_lease_expires_at ON tasks (lease_expires_at) /*sqlite WHERE lease_expires_at IS NOT NULL */;
CREATE INDEX tasks_by_completed_at ON tasks (dedupe_until, completed_at) /*sqlite WHERE completed_at IS NOT NULL */;

CREATE TABLE task_logs (
    id              BIGINT NOT NULL /*! AUTO_INCREMENT */ PRIMARY KEY, -- newer is higher
    task_id         BIGINT NOT NULL,
    event           VARCHAR(32) NOT NULL,
    status          VARCHAR(10),                 -- the task's status after the event
    attempt         INTEGER,
    worker_id       VARCHAR(255),
    api_key_id      BIGINT,
    claim_token     VARCHAR(64),
    message         TEXT,
    metadata        MEDIUMTEXT,                  -- JSON
    created_at      BIGINT NOT NULL,
    payload_key     VARCHAR(32),                 -- the key that encrypted the row; NULL: not encrypted
    CONSTRAINT task_logs_task FOREIGN KEY (task_id) REFERENCES tasks (id) ON DELETE CASCADE
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE INDEX task_logs_by_task ON task_logs (task_id, id);

-- The tags of a task once more, so that the tasks of one tag are found. Tasks without have no row.
CREATE TABLE task_tags (
    id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    tag             VARCHAR(50) NOT NULL,
    task_id         BIGINT NOT NULL,
    CONSTRAINT task_tags_tag UNIQUE (tag, task_id),
    CONSTRAINT task_tags_task FOREIGN KEY (task_id) REFERENCES tasks (id) ON DELETE CASCADE
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE INDEX task_tags_by_task ON task_tags (task_id);

-- By when tasks must have been claimed; else they are cancelled. Tasks without have no row.
CREATE TABLE task_deadlines (
    task_id         BIGINT NOT NULL PRIMARY KEY,
    expires_at      BIGINT NOT NULL,
    CONSTRAINT task_deadlines_task FOREIGN KEY (task_id) REFERENCES tasks (id) ON DELETE CASCADE
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE INDEX task_deadlines_by_expires_at ON task_deadlines (expires_at);

-- How many tasks of a type have started since the beginning of its window. Types without limits
-- have no row. Claims of one type take turns by it, and creations where their number is limited.
CREATE TABLE type_starts (
    task_type_id    BIGINT NOT NULL PRIMARY KEY,
    window_at       BIGINT NOT NULL,
    started         BIGINT NOT NULL,
    touched_at      BIGINT NOT NULL
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

-- Tasks of a type that share a concurrency_key or a group_key, and which of them is next: see
-- queue/flow/lanes.py. Tasks without a key have no row.
CREATE TABLE lanes (
    id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    task_type_id    BIGINT NOT NULL,
    kind            VARCHAR(12) NOT NULL,        -- 'concurrency' or 'group'
    name            VARCHAR(255) NOT NULL,       -- the key
    is_ready        SMALLINT NOT NULL,           -- 1: a claim may take from it
    turn            BIGINT NOT NULL,             -- the lowest is next
    next_task_id    BIGINT,
    changes         BIGINT NOT NULL,             -- written by everybody, so that two cannot both commit
    CONSTRAINT lanes_name UNIQUE (task_type_id, kind, name)
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE INDEX lanes_by_turn ON lanes (task_type_id, kind, is_ready, turn, next_task_id);

CREATE TABLE lane_members (
    id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    task_id         BIGINT NOT NULL,
    lane_id         BIGINT NOT NULL,
    is_held         SMALLINT NOT NULL,           -- 0: pending; 1: in any other status
    claim_rank      INTEGER NOT NULL,            -- of the task
    CONSTRAINT lane_members_task UNIQUE (task_id, lane_id),
    CONSTRAINT lane_members_of FOREIGN KEY (task_id) REFERENCES tasks (id) ON DELETE CASCADE
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE INDEX lane_members_in_order ON lane_members (lane_id, is_held, claim_rank, task_id);

CREATE TABLE batches (
    id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    name            VARCHAR(255),
    metadata        TEXT,                        -- JSON
    on_finished     MEDIUMTEXT,                  -- the row of a task to create, as JSON
    on_completed    MEDIUMTEXT,
    on_failed       MEDIUMTEXT,
    on_finished_task_id BIGINT,                  -- what was created
    on_completed_task_id BIGINT,
    on_failed_task_id BIGINT,
    parent_batch_id BIGINT,                      -- waits for this one too
    api_key_id      BIGINT,                      -- who created it
    tasks           BIGINT NOT NULL,             -- members ever added
    completed       BIGINT NOT NULL,             -- how many of them ended so
    failed          BIGINT NOT NULL,
    cancelled       BIGINT NOT NULL,
    open_batches    BIGINT NOT NULL,             -- batches in it that are not finished
    failed_batches  BIGINT NOT NULL,             -- finished ones in it where not all completed
    closed_at       BIGINT,                      -- since when it takes no more tasks
    finished_at     BIGINT,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE INDEX batches_by_finished_at ON batches (finished_at);

CREATE TABLE batch_members (
    task_id         BIGINT NOT NULL PRIMARY KEY,
    batch_id        BIGINT NOT NULL,
    is_open         SMALLINT NOT NULL,           -- 0: it has ended
    CONSTRAINT batch_members_task FOREIGN KEY (task_id) REFERENCES tasks (id) ON DELETE CASCADE
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE INDEX batch_members_by_batch ON batch_members (batch_id, task_id);
CREATE INDEX batch_members_open ON batch_members (batch_id, is_open, task_id);

-- Which tasks a task waits for, in the order of its depends_on. A task that was named may be pruned.
CREATE TABLE task_dependencies (
    id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    task_id         BIGINT NOT NULL,
    depends_on_id   BIGINT NOT NULL,
    position        INTEGER NOT NULL,
    is_open         SMALLINT NOT NULL,           -- 0: it has ended
    is_filled       SMALLINT NOT NULL,           -- 1: the params of task_id hold the results
    CONSTRAINT task_dependencies_task FOREIGN KEY (task_id) REFERENCES tasks (id) ON DELETE CASCADE
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE INDEX task_dependencies_by_task ON task_dependencies (task_id, position);
CREATE INDEX task_dependencies_open ON task_dependencies (depends_on_id, is_open, task_id);

-- Tasks that have ended, while some of those that wait for them do not know it yet.
CREATE TABLE ended_dependencies (
    task_id         BIGINT NOT NULL PRIMARY KEY,
    status          VARCHAR(10) NOT NULL,
    ended_at        BIGINT NOT NULL
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE INDEX ended_dependencies_by_ended_at ON ended_dependencies (ended_at, task_id);

-- The keys that have encrypted something, each with the secret of the dedupe keys, encrypted by it.
CREATE TABLE payload_keys (
    id              VARCHAR(32) NOT NULL PRIMARY KEY,
    secret          TEXT NOT NULL,
    created_at      BIGINT NOT NULL
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

-- Where the newest rows of task_logs were deleted. Their ids may be used again: see queue/feed.py.
CREATE TABLE task_log_cuts (
    id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    last_log_id     BIGINT NOT NULL              -- the highest id that was left
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

-- How far a part of the program has read task_logs.
CREATE TABLE task_log_readers (
    name            VARCHAR(20) NOT NULL PRIMARY KEY,
    last_log_id     BIGINT NOT NULL,
    slices          BIGINT NOT NULL,             -- read so far; whoever finds another number is late
    read_until      BIGINT NOT NULL              -- what happened up to then has been read
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

-- What happened in each period, counted from task_logs by maintenance: see queue/figures/periods.py.
CREATE TABLE period_counts (
    id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    measure         VARCHAR(10) NOT NULL,        -- 'wait', 'run', 'created', 'finished', …
    period_seconds  INTEGER NOT NULL,            -- 60 or 3600; 0: since counting began
    period_at       BIGINT NOT NULL,             -- when the period begins
    task_type_id    BIGINT NOT NULL,
    label           VARCHAR(255) NOT NULL,       -- an error code or a worker's id, else empty
    bucket          SMALLINT NOT NULL,           -- of the duration, else 0
    events          BIGINT NOT NULL,
    total_ms        BIGINT NOT NULL,             -- the sum of the durations
    CONSTRAINT period_counts_period UNIQUE (measure, period_seconds, period_at, task_type_id, label, bucket)
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE TABLE workers (
    id              VARCHAR(255) NOT NULL PRIMARY KEY,
    metadata        MEDIUMTEXT,                  -- JSON
    tasks_completed BIGINT NOT NULL DEFAULT 0,
    tasks_failed    BIGINT NOT NULL DEFAULT 0,
    first_seen_at   BIGINT NOT NULL,
    last_seen_at    BIGINT NOT NULL,
    shut_down_at    BIGINT                       -- set by a graceful shutdown, until it is seen again
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE INDEX workers_by_last_seen_at ON workers (last_seen_at);

CREATE TABLE schedules (
    id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    name            VARCHAR(255) NOT NULL,
    task_type_id    BIGINT NOT NULL,
    params          MEDIUMTEXT NOT NULL,         -- JSON, of every task it makes
    priority        INTEGER,                     -- NULL: the type decides
    max_attempts    INTEGER,
    overlap         VARCHAR(10) NOT NULL,        -- 'allow' or 'skip' a run while the last is unfinished
    cron            VARCHAR(100),                -- either this, read in its time zone,
    timezone        VARCHAR(64) NOT NULL DEFAULT 'UTC',
    interval_seconds INTEGER,                    -- or this
    is_active       SMALLINT NOT NULL DEFAULT 1,
    next_run_at     BIGINT,                      -- the next due time; NULL while inactive
    last_run_at     BIGINT,                      -- the due time that was last acted upon
    last_outcome    VARCHAR(10),                 -- what became of it: 'created', 'skipped', 'failed', 'queue_full'
    last_task_id    BIGINT,                      -- the latest task made; it may be pruned meanwhile
    last_error      TEXT,                        -- why the last run made no task
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,             -- when a caller last changed it; a run does not count
    tags            TEXT,                        -- JSON: a list of texts, for its tasks
    notify          VARCHAR(255),                -- the name of a webhook endpoint, for its tasks
    payload_key     VARCHAR(32),                 -- the key that encrypted the row; NULL: not encrypted
    concurrency_key VARCHAR(255),                -- of its tasks
    group_key       VARCHAR(255),
    CONSTRAINT schedules_name UNIQUE (name),
    CONSTRAINT schedules_timing CHECK ((cron IS NULL) <> (interval_seconds IS NULL)),
    CONSTRAINT schedules_type FOREIGN KEY (task_type_id) REFERENCES task_types (id)
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE INDEX schedules_by_next_run_at ON schedules (next_run_at);

-- Where to send that a task has ended. The secrets sign messages, so they are stored as they are.
CREATE TABLE webhooks (
    id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    name            VARCHAR(255) NOT NULL,
    url             TEXT NOT NULL,
    secret          VARCHAR(100) NOT NULL,
    old_secret      VARCHAR(100),                -- signs too, until the time below
    old_secret_until BIGINT,
    is_active       SMALLINT NOT NULL,
    failing_since   BIGINT,                      -- since the last success; NULL: it works
    disabled_at     BIGINT,                      -- set when three days of failures switched it off
    disabled_reason TEXT,                        -- why its last delivery failed then
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    CONSTRAINT webhooks_name UNIQUE (name)
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

-- The outbox: a row is committed with the end of the task that it is about.
CREATE TABLE webhook_deliveries (
    id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    webhook_id      BIGINT NOT NULL,             -- no reference: a deleted endpoint hinders no task
    message_id      VARCHAR(40) NOT NULL,
    task_id         BIGINT NOT NULL,             -- it may be pruned meanwhile
    event           VARCHAR(32) NOT NULL,
    body            TEXT NOT NULL,
    status          VARCHAR(10) NOT NULL,       -- 'pending', 'delivered' or 'failed'
    attempts        INTEGER NOT NULL,
    next_attempt_at BIGINT NOT NULL,             -- moved by whoever sends it
    give_up_at      BIGINT NOT NULL,
    response_status INTEGER,
    error           TEXT,
    finished_at     BIGINT,
    created_at      BIGINT NOT NULL
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE INDEX webhook_deliveries_by_next_attempt_at ON webhook_deliveries (webhook_id, status, next_attempt_at);
CREATE INDEX webhook_deliveries_by_webhook ON webhook_deliveries (webhook_id, id);
CREATE INDEX webhook_deliveries_by_give_up_at ON webhook_deliveries (give_up_at);

-- What was wrong from when to when, and how much of that each channel has told: 0 nothing, 1 that it
-- began, 2 that it ended. See alerts/state.py.
CREATE TABLE alerts (
    id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    rule            VARCHAR(32) NOT NULL,
    subject         VARCHAR(255) NOT NULL,       -- the name of what it is about
    message         TEXT NOT NULL,               -- what was last found
    is_open         SMALLINT,                    -- 1, or NULL once it has ended
    began_at        BIGINT NOT NULL,
    last_seen_at    BIGINT NOT NULL,
    ended_at        BIGINT,
    notified_at     BIGINT,                      -- when a channel first told of it
    emailed         SMALLINT NOT NULL,
    posted          SMALLINT NOT NULL,
    CONSTRAINT alerts_open UNIQUE (rule, subject, is_open)
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE INDEX alerts_by_ended_at ON alerts (ended_at);

-- When each way of sending alerts may be used again.
CREATE TABLE alert_channels (
    name            VARCHAR(10) NOT NULL PRIMARY KEY, -- 'email' or 'webhook'
    attempts        INTEGER NOT NULL,            -- that have failed since it last worked
    next_attempt_at BIGINT NOT NULL,             -- moved by whoever sends
    day_began_at    BIGINT NOT NULL,
    sent_of_day     INTEGER NOT NULL,            -- messages since then
    last_sent_at    BIGINT,
    error           TEXT                         -- why the last message was not sent
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE TABLE api_keys (
    id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    name            VARCHAR(255) NOT NULL,
    key_hash        CHAR(64) NOT NULL,           -- SHA-256 of the key; the key itself is nowhere
    prefix          VARCHAR(16) NOT NULL,        -- its first characters, to tell keys apart in a list
    scopes          TEXT NOT NULL,               -- JSON list
    task_types      TEXT,                        -- JSON list of patterns; NULL: every type
    rate_limit      VARCHAR(50),                 -- NULL: the setting decides
    expires_at      BIGINT,
    revoked_at      BIGINT,
    last_used_at    BIGINT,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    session_epoch   INTEGER NOT NULL DEFAULT 0,  -- sessions of the dashboard that began in an earlier one have ended
    CONSTRAINT api_keys_key_hash UNIQUE (key_hash)
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE TABLE audit_events (
    id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    event           VARCHAR(32) NOT NULL,
    api_key_id      BIGINT,                      -- NULL: the command line, or nobody who got in
    address         VARCHAR(64),
    request_id      VARCHAR(128),
    message         TEXT NOT NULL,
    created_at      BIGINT NOT NULL
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

CREATE INDEX audit_events_by_event ON audit_events (event, id);
CREATE INDEX audit_events_by_created_at ON audit_events (created_at);

-- When maintenance last ran on each of its roads; 'claims': when it last had something to do;
-- 'clock': when it last corrected what was stored while the clock was ahead; 'alerts': when the
-- rules of alerts were last looked at.
CREATE TABLE maintenance_runs (
    road            VARCHAR(10) NOT NULL PRIMARY KEY, -- 'command', 'http', 'claims', 'clock' or 'alerts'
    last_run_at     BIGINT NOT NULL,
    duration_ms     BIGINT NOT NULL,
    tasks_moved     BIGINT NOT NULL
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

-- The figures of all tasks as they were last counted, where that takes long: one row, or none.
CREATE TABLE statistics_snapshots (
    id              SMALLINT NOT NULL PRIMARY KEY,
    figures         MEDIUMTEXT NOT NULL,         -- JSON, see queue/figures/counts.py
    tasks           BIGINT NOT NULL,             -- how many were counted
    counted_at      BIGINT NOT NULL,
    duration_ms     BIGINT NOT NULL,
    counting_since  BIGINT                       -- set while a process counts anew
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */;

INSERT INTO schema_versions (version, applied_at) VALUES (3, 0);
