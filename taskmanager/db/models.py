"""The tables as Peewee models: columns only, no rules.

schema.sql creates the tables and their indexes; a test compares what it creates
with the fields here on every database. Statements on the hot path (create,
claim, complete) are SQL templates beside the functions that run them, because
building a Peewee query costs more than running it.
"""

import re

import peewee

from taskmanager.db.connection import database


class _Metadata(peewee.Metadata):
    """TaskType has the table `task_types`, after the table prefix of the current database."""

    def make_table_name(self) -> str:
        return re.sub("(?<=[a-z])(?=[A-Z])", "_", self.model.__name__).lower() + "s"

    @property
    def table_name(self) -> str:
        return (database.table_prefix if database.obj else "") + self.plain_name

    @table_name.setter
    def table_name(self, name: str) -> None:
        self.plain_name = name

    @property
    def table(self) -> peewee.Table:
        """What a query refers to: one for each prefix, because peewee keeps only the first."""
        name = self.table_name
        if name not in self._tables:
            columns = [field.column_name for field in self.sorted_fields]
            self._tables[name] = peewee.Table(
                name, columns, _model=self.model, _database=self.database
            )
        return self._tables[name]

    @table.deleter
    def table(self) -> None:
        """Peewee asks for it whenever a column is added."""
        self._tables: dict[str, peewee.Table] = {}


class _Model(peewee.Model):
    class Meta:
        database = database
        model_metadata_class = _Metadata


class TaskType(_Model):
    id = peewee.BigAutoField()
    name = peewee.CharField(255)
    version = peewee.CharField(50)
    is_active = peewee.SmallIntegerField()
    is_paused = peewee.SmallIntegerField()
    priority = peewee.IntegerField(null=True)
    max_attempts = peewee.IntegerField(null=True)
    lease_seconds = peewee.IntegerField(null=True)
    retry = peewee.TextField(null=True)
    dedupe = peewee.CharField(10, null=True)
    created_at = peewee.BigIntegerField()
    updated_at = peewee.BigIntegerField()
    concurrency = peewee.TextField(null=True)
    start_rate = peewee.CharField(50, null=True)
    max_run_seconds = peewee.IntegerField(null=True)
    fair = peewee.SmallIntegerField(null=True)
    max_open = peewee.TextField(null=True)
    dedupe_days = peewee.IntegerField(null=True)
    retention_days = peewee.IntegerField(null=True)
    pruned_until = peewee.BigIntegerField(null=True)
    notify = peewee.CharField(255, null=True)
    is_encrypted = peewee.SmallIntegerField(null=True)
    adopted_until = peewee.BigIntegerField(null=True)


class TaskTypeVersion(_Model):
    id = peewee.BigAutoField()
    task_type_id = peewee.BigIntegerField()
    version = peewee.CharField(50)
    param_schema = peewee.TextField()
    created_at = peewee.BigIntegerField()
    updated_at = peewee.BigIntegerField()


class Task(_Model):
    id = peewee.BigAutoField()
    task_type_id = peewee.BigIntegerField()
    type_version = peewee.CharField(50)
    status = peewee.CharField(10)
    params = peewee.TextField()
    result = peewee.TextField(null=True)
    error_message = peewee.TextField(null=True)
    error_code = peewee.CharField(100, null=True)
    priority = peewee.IntegerField()
    claim_rank = peewee.IntegerField()
    progress = peewee.SmallIntegerField(null=True)
    progress_message = peewee.TextField(null=True)
    attempts = peewee.IntegerField()
    max_attempts = peewee.IntegerField()
    dedupe = peewee.CharField(10)
    dedupe_key = peewee.FixedCharField(64)
    holds_key_forever = peewee.SmallIntegerField(null=True)
    holds_key_while_open = peewee.SmallIntegerField(null=True)
    parent_task_id = peewee.BigIntegerField(null=True)
    worker_id = peewee.CharField(255, null=True)
    claim_token = peewee.CharField(64, null=True)
    claim_request_id = peewee.CharField(255, null=True)
    lease_seconds = peewee.IntegerField(null=True)
    claimed_at = peewee.BigIntegerField(null=True)
    lease_expires_at = peewee.BigIntegerField(null=True)
    available_at = peewee.BigIntegerField()
    completed_at = peewee.BigIntegerField(null=True)
    created_at = peewee.BigIntegerField()
    updated_at = peewee.BigIntegerField()
    batch_id = peewee.BigIntegerField(null=True)
    tags = peewee.TextField(null=True)
    group_key = peewee.CharField(255, null=True)
    concurrency_key = peewee.CharField(255, null=True)
    expires_at = peewee.BigIntegerField(null=True)
    max_run_seconds = peewee.IntegerField(null=True)
    on_dependency_failed = peewee.CharField(10, null=True)
    dedupe_seconds = peewee.IntegerField(null=True)
    dedupe_until = peewee.BigIntegerField(null=True)
    pruned_at = peewee.BigIntegerField(null=True)
    traceparent = peewee.CharField(64, null=True)
    notify = peewee.CharField(255, null=True)
    payload_key = peewee.CharField(32, null=True)
    dependents = peewee.IntegerField(null=True)


class TaskDependency(_Model):
    id = peewee.BigAutoField()
    task_id = peewee.BigIntegerField()
    depends_on_id = peewee.BigIntegerField()
    position = peewee.IntegerField()
    is_open = peewee.SmallIntegerField()
    is_filled = peewee.SmallIntegerField()

    class Meta:
        table_name = "task_dependencies"


class EndedDependency(_Model):
    task_id = peewee.BigIntegerField(primary_key=True)
    status = peewee.CharField(10)
    ended_at = peewee.BigIntegerField()

    class Meta:
        table_name = "ended_dependencies"


class TaskDeadline(_Model):
    task_id = peewee.BigIntegerField(primary_key=True)
    expires_at = peewee.BigIntegerField()


class TypeStart(_Model):
    task_type_id = peewee.BigIntegerField(primary_key=True)
    window_at = peewee.BigIntegerField()
    started = peewee.BigIntegerField()
    touched_at = peewee.BigIntegerField()


class Lane(_Model):
    id = peewee.BigAutoField()
    task_type_id = peewee.BigIntegerField()
    kind = peewee.CharField(12)
    name = peewee.CharField(255)
    is_ready = peewee.SmallIntegerField()
    turn = peewee.BigIntegerField()
    next_task_id = peewee.BigIntegerField(null=True)
    changes = peewee.BigIntegerField()


class LaneMember(_Model):
    id = peewee.BigAutoField()
    task_id = peewee.BigIntegerField()
    lane_id = peewee.BigIntegerField()
    is_held = peewee.SmallIntegerField()
    claim_rank = peewee.IntegerField()


class Batch(_Model):
    id = peewee.BigAutoField()
    name = peewee.CharField(255, null=True)
    metadata = peewee.TextField(null=True)
    on_finished = peewee.TextField(null=True)
    on_completed = peewee.TextField(null=True)
    on_failed = peewee.TextField(null=True)
    on_finished_task_id = peewee.BigIntegerField(null=True)
    on_completed_task_id = peewee.BigIntegerField(null=True)
    on_failed_task_id = peewee.BigIntegerField(null=True)
    parent_batch_id = peewee.BigIntegerField(null=True)
    api_key_id = peewee.BigIntegerField(null=True)
    tasks = peewee.BigIntegerField()
    completed = peewee.BigIntegerField()
    failed = peewee.BigIntegerField()
    cancelled = peewee.BigIntegerField()
    open_batches = peewee.BigIntegerField()
    failed_batches = peewee.BigIntegerField()
    closed_at = peewee.BigIntegerField(null=True)
    finished_at = peewee.BigIntegerField(null=True)
    created_at = peewee.BigIntegerField()
    updated_at = peewee.BigIntegerField()

    class Meta:
        table_name = "batches"


class BatchMember(_Model):
    task_id = peewee.BigIntegerField(primary_key=True)
    batch_id = peewee.BigIntegerField()
    is_open = peewee.SmallIntegerField()


class TaskLog(_Model):
    id = peewee.BigAutoField()
    task_id = peewee.BigIntegerField()
    event = peewee.CharField(32)
    status = peewee.CharField(10, null=True)
    attempt = peewee.IntegerField(null=True)
    worker_id = peewee.CharField(255, null=True)
    api_key_id = peewee.BigIntegerField(null=True)
    claim_token = peewee.CharField(64, null=True)
    message = peewee.TextField(null=True)
    metadata = peewee.TextField(null=True)
    created_at = peewee.BigIntegerField()
    payload_key = peewee.CharField(32, null=True)


class TaskTag(_Model):
    id = peewee.BigAutoField()
    tag = peewee.CharField(50)
    task_id = peewee.BigIntegerField()


class TaskLogCut(_Model):
    id = peewee.BigAutoField()
    last_log_id = peewee.BigIntegerField()


class TaskLogReader(_Model):
    name = peewee.CharField(20, primary_key=True)
    last_log_id = peewee.BigIntegerField()
    slices = peewee.BigIntegerField()
    read_until = peewee.BigIntegerField()


class PeriodCount(_Model):
    id = peewee.BigAutoField()
    measure = peewee.CharField(10)
    period_seconds = peewee.IntegerField()
    period_at = peewee.BigIntegerField()
    task_type_id = peewee.BigIntegerField()
    label = peewee.CharField(255)
    bucket = peewee.SmallIntegerField()
    events = peewee.BigIntegerField()
    total_ms = peewee.BigIntegerField()


class PayloadKey(_Model):
    id = peewee.CharField(32, primary_key=True)
    secret = peewee.TextField()
    created_at = peewee.BigIntegerField()


class Worker(_Model):
    id = peewee.CharField(255, primary_key=True)
    metadata = peewee.TextField(null=True)
    tasks_completed = peewee.BigIntegerField()
    tasks_failed = peewee.BigIntegerField()
    first_seen_at = peewee.BigIntegerField()
    last_seen_at = peewee.BigIntegerField()
    shut_down_at = peewee.BigIntegerField(null=True)


class Schedule(_Model):
    id = peewee.BigAutoField()
    name = peewee.CharField(255)
    task_type_id = peewee.BigIntegerField()
    params = peewee.TextField()
    priority = peewee.IntegerField(null=True)
    max_attempts = peewee.IntegerField(null=True)
    overlap = peewee.CharField(10)
    cron = peewee.CharField(100, null=True)
    timezone = peewee.CharField(64)
    interval_seconds = peewee.IntegerField(null=True)
    is_active = peewee.SmallIntegerField()
    next_run_at = peewee.BigIntegerField(null=True)
    last_run_at = peewee.BigIntegerField(null=True)
    last_outcome = peewee.CharField(10, null=True)
    last_task_id = peewee.BigIntegerField(null=True)
    last_error = peewee.TextField(null=True)
    created_at = peewee.BigIntegerField()
    updated_at = peewee.BigIntegerField()
    tags = peewee.TextField(null=True)
    notify = peewee.CharField(255, null=True)
    payload_key = peewee.CharField(32, null=True)
    concurrency_key = peewee.CharField(255, null=True)
    group_key = peewee.CharField(255, null=True)


class Webhook(_Model):
    id = peewee.BigAutoField()
    name = peewee.CharField(255)
    url = peewee.TextField()
    secret = peewee.CharField(100)
    old_secret = peewee.CharField(100, null=True)
    old_secret_until = peewee.BigIntegerField(null=True)
    is_active = peewee.SmallIntegerField()
    failing_since = peewee.BigIntegerField(null=True)
    disabled_at = peewee.BigIntegerField(null=True)
    disabled_reason = peewee.TextField(null=True)
    created_at = peewee.BigIntegerField()
    updated_at = peewee.BigIntegerField()


class WebhookDelivery(_Model):
    id = peewee.BigAutoField()
    webhook_id = peewee.BigIntegerField()
    message_id = peewee.CharField(40)
    task_id = peewee.BigIntegerField()
    event = peewee.CharField(32)
    body = peewee.TextField()
    status = peewee.CharField(10)
    attempts = peewee.IntegerField()
    next_attempt_at = peewee.BigIntegerField()
    give_up_at = peewee.BigIntegerField()
    response_status = peewee.IntegerField(null=True)
    error = peewee.TextField(null=True)
    finished_at = peewee.BigIntegerField(null=True)
    created_at = peewee.BigIntegerField()

    class Meta:
        table_name = "webhook_deliveries"


class Alert(_Model):
    id = peewee.BigAutoField()
    rule = peewee.CharField(32)
    subject = peewee.CharField(255)
    message = peewee.TextField()
    is_open = peewee.SmallIntegerField(null=True)
    began_at = peewee.BigIntegerField()
    last_seen_at = peewee.BigIntegerField()
    ended_at = peewee.BigIntegerField(null=True)
    notified_at = peewee.BigIntegerField(null=True)
    emailed = peewee.SmallIntegerField()
    posted = peewee.SmallIntegerField()


class AlertChannel(_Model):
    name = peewee.CharField(10, primary_key=True)
    attempts = peewee.IntegerField()
    next_attempt_at = peewee.BigIntegerField()
    day_began_at = peewee.BigIntegerField()
    sent_of_day = peewee.IntegerField()
    last_sent_at = peewee.BigIntegerField(null=True)
    error = peewee.TextField(null=True)


class ApiKey(_Model):
    id = peewee.BigAutoField()
    name = peewee.CharField(255)
    key_hash = peewee.FixedCharField(64)
    prefix = peewee.CharField(16)
    scopes = peewee.TextField()
    task_types = peewee.TextField(null=True)
    rate_limit = peewee.CharField(50, null=True)
    expires_at = peewee.BigIntegerField(null=True)
    revoked_at = peewee.BigIntegerField(null=True)
    last_used_at = peewee.BigIntegerField(null=True)
    created_at = peewee.BigIntegerField()
    updated_at = peewee.BigIntegerField()
    session_epoch = peewee.IntegerField(default=0)


class AuditEvent(_Model):
    id = peewee.BigAutoField()
    event = peewee.CharField(32)
    api_key_id = peewee.BigIntegerField(null=True)
    address = peewee.CharField(64, null=True)
    request_id = peewee.CharField(128, null=True)
    message = peewee.TextField()
    created_at = peewee.BigIntegerField()


class SchemaVersion(_Model):
    version = peewee.IntegerField(primary_key=True)
    applied_at = peewee.BigIntegerField()


class MigrationStep(_Model):
    name = peewee.CharField(100, primary_key=True)
    version = peewee.IntegerField()
    position = peewee.BigIntegerField()
    finished_at = peewee.BigIntegerField(null=True)


class MaintenanceRun(_Model):
    road = peewee.CharField(10, primary_key=True)
    last_run_at = peewee.BigIntegerField()
    duration_ms = peewee.BigIntegerField()
    tasks_moved = peewee.BigIntegerField()


class StatisticsSnapshot(_Model):
    id = peewee.SmallIntegerField(primary_key=True)
    figures = peewee.TextField()
    tasks = peewee.BigIntegerField()
    counted_at = peewee.BigIntegerField()
    duration_ms = peewee.BigIntegerField()
    counting_since = peewee.BigIntegerField(null=True)


MODELS = (
    *(
        SchemaVersion,
        TaskType,
        TaskTypeVersion,
        TypeStart,
        Task,
        TaskTag,
        TaskDeadline,
        Lane,
        LaneMember,
        Batch,
        BatchMember,
        TaskDependency,
        EndedDependency,
        TaskLog,
        PayloadKey,
        Worker,
        Schedule,
    ),
    *(Webhook, WebhookDelivery, Alert, AlertChannel),
    *(ApiKey, TaskLogCut, TaskLogReader, PeriodCount),
    *(AuditEvent, MigrationStep, MaintenanceRun, StatisticsSnapshot),
)


def columns_of(model: type[peewee.Model]) -> tuple[str, ...]:
    """The names of the columns of a model's table."""
    return tuple(model._meta.columns)


def plain_name(model: type[peewee.Model]) -> str:
    """The name of a model's table without the prefix, as in schema.sql and in templates."""
    return str(model._meta.plain_name)  # type: ignore[attr-defined]
