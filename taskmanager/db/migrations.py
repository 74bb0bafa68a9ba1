"""What each schema version changed: ordered steps from the version before. Forward only.

schema.py runs them, under its lock and each once. A new version is a new entry in MIGRATIONS, the
same change in schema.sql (a test compares what both make), and nothing else. Steps should only
add: while an upload replaces the program, processes of the version before still write. So a new
column has a default or may be NULL, and nothing is renamed or removed that they use.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Ddl(NamedTuple):
    """Statements as schema.sql would spell them; `mysql` where MySQL needs other words, or none.

    MySQL commits each by itself. A run may be cut short right after, and the
    next one repeat it: that a table, column or index is there already (or gone)
    is then no error.
    """

    name: str
    sql: str
    mysql: str | None = None


class DataStep(NamedTuple):
    """Rows to be computed or moved.

    `run` is given a position, 0 at first, and returns the next one, or None
    where nothing is left. On MySQL each call is a transaction of its own, which
    notes the position too: no slice is done twice, however often the run is cut
    short. On SQLite the whole migration is one transaction.
    """

    name: str
    run: Callable[[int], int | None]


class Definition(NamedTuple):
    """On SQLite, words in the stored definition of a table: it cannot alter a constraint.

    No row is read: what the table holds must fit the new words as well. See
    sqlite/definitions.py. `mysql` is what MySQL and MariaDB run, as in Ddl.
    """

    name: str
    table: str
    old: str
    new: str
    mysql: str


Step = Ddl | DataStep | Definition


def _new_columns(table: str, columns: Sequence[str]) -> Ddl:
    """Columns that may be NULL or have a default, after all others: no server copies the table."""
    added = [f"ADD COLUMN {column}" for column in columns]
    return Ddl(
        f"add columns to {table}",
        "; ".join(f"ALTER TABLE {table} {one}" for one in added),
        mysql=f"ALTER TABLE {table} {', '.join(added)}",
    )


def _new_table(name: str, columns: str) -> Ddl:
    return Ddl(f"make {name}", f"CREATE TABLE {name} ({columns}) {_OPTIONS}")


def _new_index(name: str, columns: str) -> Ddl:
    return Ddl(f"make the index {name}", f"CREATE INDEX {name} ON {columns}")


_OPTIONS = "/*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */"
_STATUS_CHECK = (
    "CHECK (status IN "
    "('scheduled', 'pending', 'claimed', 'completed', 'failed', 'cancelled', 'blocked'))"
)

# Which steps have been done, and how far: what a run that was cut short is taken up by.
STEPS_TABLE = """
CREATE TABLE IF NOT EXISTS migration_steps (
    name            VARCHAR(100) NOT NULL PRIMARY KEY,
    version         INTEGER NOT NULL,
    position        BIGINT NOT NULL DEFAULT 0,
    finished_at     BIGINT
) /*! ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin */
"""

# Schema version → the steps that lead to it. Names of steps are unique, and never change.
MIGRATIONS: Mapping[int, tuple[Step, ...]] = {
    2: (
        _new_table(
            "maintenance_runs",
            """
                road            VARCHAR(10) NOT NULL PRIMARY KEY,
                last_run_at     BIGINT NOT NULL,
                duration_ms     BIGINT NOT NULL,
                tasks_moved     BIGINT NOT NULL
            """,
        ),
        _new_table(
            "statistics_snapshots",
            """
                id              SMALLINT NOT NULL PRIMARY KEY,
                figures         MEDIUMTEXT NOT NULL,
                tasks           BIGINT NOT NULL,
                counted_at      BIGINT NOT NULL,
                duration_ms     BIGINT NOT NULL,
                counting_since  BIGINT
            """,
        ),
        Ddl(
            "let one pass over tasks_claim_by_id count everything",
            "DROP INDEX IF EXISTS tasks_claim_by_id; "
            "CREATE INDEX tasks_claim_by_id ON tasks (task_type_id, status, id, completed_at)",
            # At once: processes of the version before name this index in their claims.
            mysql="ALTER TABLE tasks DROP INDEX tasks_claim_by_id, "
            "ADD INDEX tasks_claim_by_id (task_type_id, status, id, completed_at)",
        ),
        Ddl(
            "make tasks_by_worker_and_priority",
            """
            CREATE INDEX tasks_by_worker_and_priority ON tasks (worker_id, status, claim_rank, id)
            /*sqlite WHERE worker_id IS NOT NULL */
            """,
        ),
        Ddl(
            "drop tasks_by_status: the index of each type has its tasks by status too",
            "DROP INDEX IF EXISTS tasks_by_status",
            # Until it is ended, a process of 0.1.0 cannot list the tasks of a status.
            mysql="ALTER TABLE tasks DROP INDEX tasks_by_status",
        ),
        Ddl(
            "let task_logs do without a page that notes the highest id",
            """
            CREATE TABLE task_logs_new (
                id              INTEGER PRIMARY KEY,
                task_id         BIGINT NOT NULL,
                event           VARCHAR(32) NOT NULL,
                status          VARCHAR(10),
                attempt         INTEGER,
                worker_id       VARCHAR(255),
                api_key_id      BIGINT,
                claim_token     VARCHAR(64),
                message         TEXT,
                metadata        MEDIUMTEXT,
                created_at      BIGINT NOT NULL,
                CONSTRAINT task_logs_task
                    FOREIGN KEY (task_id) REFERENCES tasks (id) ON DELETE CASCADE
            );
            INSERT INTO task_logs_new
            SELECT id, task_id, event, status, attempt, worker_id, api_key_id, claim_token, message,
                metadata, created_at
            FROM task_logs;
            DROP TABLE task_logs;
            ALTER TABLE task_logs_new RENAME TO task_logs;
            CREATE INDEX task_logs_by_task ON task_logs (task_id, id)
            """,
            mysql="",
        ),
        *(
            Ddl(
                f"leave out of {index} what nobody looks for",
                f"DROP INDEX IF EXISTS {index}; CREATE INDEX {index} ON tasks {columns_and_rows}",
                mysql="",
            )
            for index, columns_and_rows in (
                (
                    "tasks_claim_by_attempts",
                    "(task_type_id, status, attempts, id) WHERE status = 'pending'",
                ),
                ("tasks_by_worker", "(worker_id, status, id) WHERE worker_id IS NOT NULL"),
                ("tasks_by_parent", "(parent_task_id) WHERE parent_task_id IS NOT NULL"),
                ("tasks_by_available_at", "(status, available_at) WHERE status = 'scheduled'"),
                (
                    "tasks_by_lease_expires_at",
                    "(lease_expires_at) WHERE lease_expires_at IS NOT NULL",
                ),
                ("tasks_by_completed_at", "(completed_at) WHERE completed_at IS NOT NULL"),
            )
        ),
    ),
    3: (
        Definition(
            "let tasks be blocked",
            "tasks",
            old="'cancelled')",
            new="'cancelled', 'blocked')",
            # MariaDB adds a CHECK in an instant only to a column. MySQL would copy the table to
            # enforce it, while nobody may write. MySQL 5.7 knows none, and what was made there has
            # none on a later server either.
            mysql="ALTER TABLE tasks "
            "/*M!100300 DROP CONSTRAINT IF EXISTS tasks_status, "
            f"MODIFY status VARCHAR(10) NOT NULL {_STATUS_CHECK} */ "
            "/*!80016 DROP CHECK tasks_status */; "
            "ALTER TABLE tasks "
            f"/*!80016 ADD CONSTRAINT tasks_status {_STATUS_CHECK} NOT ENFORCED */",
        ),
        _new_columns(
            "tasks",
            (
                "batch_id BIGINT",
                "tags TEXT",
                "group_key VARCHAR(255)",
                "concurrency_key VARCHAR(255)",
                "expires_at BIGINT",
                "max_run_seconds INTEGER",
                "on_dependency_failed VARCHAR(10)",
                "dedupe_seconds INTEGER",
                "dedupe_until BIGINT",
                "pruned_at BIGINT",
                "traceparent VARCHAR(64)",
                "notify VARCHAR(255)",
                "payload_key VARCHAR(32)",
                "dependents INTEGER",
            ),
        ),
        _new_columns(
            "task_types",
            (
                "concurrency TEXT",
                "start_rate VARCHAR(50)",
                "max_run_seconds INTEGER",
                "fair SMALLINT",
                "max_open TEXT",
                "dedupe_days INTEGER",
                "retention_days INTEGER",
                "pruned_until BIGINT",
                "notify VARCHAR(255)",
                "is_encrypted SMALLINT",
                "adopted_until BIGINT",
            ),
        ),
        _new_columns("task_logs", ("payload_key VARCHAR(32)",)),
        _new_columns(
            "schedules",
            (
                "tags TEXT",
                "notify VARCHAR(255)",
                "payload_key VARCHAR(32)",
                "concurrency_key VARCHAR(255)",
                "group_key VARCHAR(255)",
            ),
        ),
        _new_columns("api_keys", ("session_epoch INTEGER NOT NULL DEFAULT 0",)),
        _new_table(
            "task_tags",
            """
                id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
                tag             VARCHAR(50) NOT NULL,
                task_id         BIGINT NOT NULL,
                CONSTRAINT task_tags_tag UNIQUE (tag, task_id),
                CONSTRAINT task_tags_task FOREIGN KEY (task_id) REFERENCES tasks (id)
                    ON DELETE CASCADE
            """,
        ),
        _new_index("task_tags_by_task", "task_tags (task_id)"),
        _new_table(
            "task_deadlines",
            """
                task_id         BIGINT NOT NULL PRIMARY KEY,
                expires_at      BIGINT NOT NULL,
                CONSTRAINT task_deadlines_task FOREIGN KEY (task_id) REFERENCES tasks (id)
                    ON DELETE CASCADE
            """,
        ),
        _new_index("task_deadlines_by_expires_at", "task_deadlines (expires_at)"),
        _new_table(
            "type_starts",
            """
                task_type_id    BIGINT NOT NULL PRIMARY KEY,
                window_at       BIGINT NOT NULL,
                started         BIGINT NOT NULL,
                touched_at      BIGINT NOT NULL
            """,
        ),
        _new_table(
            "lanes",
            """
                id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
                task_type_id    BIGINT NOT NULL,
                kind            VARCHAR(12) NOT NULL,
                name            VARCHAR(255) NOT NULL,
                is_ready        SMALLINT NOT NULL,
                turn            BIGINT NOT NULL,
                next_task_id    BIGINT,
                changes         BIGINT NOT NULL,
                CONSTRAINT lanes_name UNIQUE (task_type_id, kind, name)
            """,
        ),
        _new_index("lanes_by_turn", "lanes (task_type_id, kind, is_ready, turn, next_task_id)"),
        _new_table(
            "lane_members",
            """
                id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
                task_id         BIGINT NOT NULL,
                lane_id         BIGINT NOT NULL,
                is_held         SMALLINT NOT NULL,
                claim_rank      INTEGER NOT NULL,
                CONSTRAINT lane_members_task UNIQUE (task_id, lane_id),
                CONSTRAINT lane_members_of FOREIGN KEY (task_id) REFERENCES tasks (id)
                    ON DELETE CASCADE
            """,
        ),
        _new_index("lane_members_in_order", "lane_members (lane_id, is_held, claim_rank, task_id)"),
        _new_table(
            "batches",
            """
                id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
                name            VARCHAR(255),
                metadata        TEXT,
                on_finished     MEDIUMTEXT,
                on_completed    MEDIUMTEXT,
                on_failed       MEDIUMTEXT,
                on_finished_task_id BIGINT,
                on_completed_task_id BIGINT,
                on_failed_task_id BIGINT,
                parent_batch_id BIGINT,
                api_key_id      BIGINT,
                tasks           BIGINT NOT NULL,
                completed       BIGINT NOT NULL,
                failed          BIGINT NOT NULL,
                cancelled       BIGINT NOT NULL,
                open_batches    BIGINT NOT NULL,
                failed_batches  BIGINT NOT NULL,
                closed_at       BIGINT,
                finished_at     BIGINT,
                created_at      BIGINT NOT NULL,
                updated_at      BIGINT NOT NULL
            """,
        ),
        _new_index("batches_by_finished_at", "batches (finished_at)"),
        _new_table(
            "batch_members",
            """
                task_id         BIGINT NOT NULL PRIMARY KEY,
                batch_id        BIGINT NOT NULL,
                is_open         SMALLINT NOT NULL,
                CONSTRAINT batch_members_task FOREIGN KEY (task_id) REFERENCES tasks (id)
                    ON DELETE CASCADE
            """,
        ),
        _new_index("batch_members_by_batch", "batch_members (batch_id, task_id)"),
        _new_index("batch_members_open", "batch_members (batch_id, is_open, task_id)"),
        _new_table(
            "task_dependencies",
            """
                id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
                task_id         BIGINT NOT NULL,
                depends_on_id   BIGINT NOT NULL,
                position        INTEGER NOT NULL,
                is_open         SMALLINT NOT NULL,
                is_filled       SMALLINT NOT NULL,
                CONSTRAINT task_dependencies_task FOREIGN KEY (task_id) REFERENCES tasks (id)
                    ON DELETE CASCADE
            """,
        ),
        _new_index("task_dependencies_by_task", "task_dependencies (task_id, position)"),
        _new_index("task_dependencies_open", "task_dependencies (depends_on_id, is_open, task_id)"),
        _new_table(
            "ended_dependencies",
            """
                task_id         BIGINT NOT NULL PRIMARY KEY,
                status          VARCHAR(10) NOT NULL,
                ended_at        BIGINT NOT NULL
            """,
        ),
        _new_index("ended_dependencies_by_ended_at", "ended_dependencies (ended_at, task_id)"),
        _new_table(
            "payload_keys",
            """
                id              VARCHAR(32) NOT NULL PRIMARY KEY,
                secret          TEXT NOT NULL,
                created_at      BIGINT NOT NULL
            """,
        ),
        _new_table(
            "task_log_cuts",
            """
                id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
                last_log_id     BIGINT NOT NULL
            """,
        ),
        _new_table(
            "task_log_readers",
            """
                name            VARCHAR(20) NOT NULL PRIMARY KEY,
                last_log_id     BIGINT NOT NULL,
                slices          BIGINT NOT NULL,
                read_until      BIGINT NOT NULL
            """,
        ),
        _new_table(
            "period_counts",
            """
                id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
                measure         VARCHAR(10) NOT NULL,
                period_seconds  INTEGER NOT NULL,
                period_at       BIGINT NOT NULL,
                task_type_id    BIGINT NOT NULL,
                label           VARCHAR(255) NOT NULL,
                bucket          SMALLINT NOT NULL,
                events          BIGINT NOT NULL,
                total_ms        BIGINT NOT NULL,
                CONSTRAINT period_counts_period UNIQUE
                    (measure, period_seconds, period_at, task_type_id, label, bucket)
            """,
        ),
        _new_table(
            "webhooks",
            """
                id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
                name            VARCHAR(255) NOT NULL,
                url             TEXT NOT NULL,
                secret          VARCHAR(100) NOT NULL,
                old_secret      VARCHAR(100),
                old_secret_until BIGINT,
                is_active       SMALLINT NOT NULL,
                failing_since   BIGINT,
                disabled_at     BIGINT,
                disabled_reason TEXT,
                created_at      BIGINT NOT NULL,
                updated_at      BIGINT NOT NULL,
                CONSTRAINT webhooks_name UNIQUE (name)
            """,
        ),
        _new_table(
            "webhook_deliveries",
            """
                id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
                webhook_id      BIGINT NOT NULL,
                message_id      VARCHAR(40) NOT NULL,
                task_id         BIGINT NOT NULL,
                event           VARCHAR(32) NOT NULL,
                body            TEXT NOT NULL,
                status          VARCHAR(10) NOT NULL,
                attempts        INTEGER NOT NULL,
                next_attempt_at BIGINT NOT NULL,
                give_up_at      BIGINT NOT NULL,
                response_status INTEGER,
                error           TEXT,
                finished_at     BIGINT,
                created_at      BIGINT NOT NULL
            """,
        ),
        *(
            Ddl(
                f"make the index webhook_deliveries_by_{name}",
                f"CREATE INDEX webhook_deliveries_by_{name} ON webhook_deliveries ({columns})",
            )
            for name, columns in (
                ("next_attempt_at", "webhook_id, status, next_attempt_at"),
                ("webhook", "webhook_id, id"),
                ("give_up_at", "give_up_at"),
            )
        ),
        _new_table(
            "alerts",
            """
                id              BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
                rule            VARCHAR(32) NOT NULL,
                subject         VARCHAR(255) NOT NULL,
                message         TEXT NOT NULL,
                is_open         SMALLINT,
                began_at        BIGINT NOT NULL,
                last_seen_at    BIGINT NOT NULL,
                ended_at        BIGINT,
                notified_at     BIGINT,
                emailed         SMALLINT NOT NULL,
                posted          SMALLINT NOT NULL,
                CONSTRAINT alerts_open UNIQUE (rule, subject, is_open)
            """,
        ),
        _new_index("alerts_by_ended_at", "alerts (ended_at)"),
        _new_table(
            "alert_channels",
            """
                name            VARCHAR(10) NOT NULL PRIMARY KEY,
                attempts        INTEGER NOT NULL,
                next_attempt_at BIGINT NOT NULL,
                day_began_at    BIGINT NOT NULL,
                sent_of_day     INTEGER NOT NULL,
                last_sent_at    BIGINT,
                error           TEXT
            """,
        ),
        Ddl(
            "keep tasks that only hold a key apart from those that are to be pruned",
            "DROP INDEX IF EXISTS tasks_by_completed_at; CREATE INDEX tasks_by_completed_at "
            "ON tasks (dedupe_until, completed_at) WHERE completed_at IS NOT NULL",
            # At once: processes of the version before name this index when they prune.
            mysql="ALTER TABLE tasks DROP INDEX tasks_by_completed_at, "
            "ADD INDEX tasks_by_completed_at (dedupe_until, completed_at)",
        ),
    ),
}
