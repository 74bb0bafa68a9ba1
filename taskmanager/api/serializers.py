"""Rows as the JSON objects of the API."""

import json
from typing import Any

from taskmanager.api.requests import decode_json
from taskmanager.clock import format_time
from taskmanager.db.statements import Row
from taskmanager.queue.read import WITH_WORKER_STATUSES


def task_json(row: Row, *, params: bool = True, result: bool = True) -> dict[str, Any]:
    """The task object, with or without its two large fields."""
    held = row["status"] in WITH_WORKER_STATUSES
    worker_id = row["worker_id"] if held else None
    task: dict[str, Any] = {
        "id": row["id"],
        "type": row["type"],
        "task_type_id": row["task_type_id"],
        "type_id": row["task_type_id"],
        "type_version": row["type_version"],
        "status": row["status"],
    }
    if params:
        task["params"] = decode_json(row["params"])
    if result:
        task["result"] = None if row["result"] is None else decode_json(row["result"])
    task |= {
        "error_message": row["error_message"],
        "error_code": row["error_code"],
        "priority": row["priority"],
        "progress": row["progress"],
        "progress_message": row["progress_message"],
        "attempts": row["attempts"],
        "max_attempts": row["max_attempts"],
        "dedupe": row["dedupe"],
        "dedupe_key": row["dedupe_key"],
        "parent_task_id": row["parent_task_id"],
        "worker_id": worker_id,
        "claimed_by": worker_id,
        "claimed_at": format_time(row["claimed_at"]) if held else None,
        "lease_expires_at": format_time(row["lease_expires_at"]),
        "available_at": format_time(row["available_at"]),
        "completed_at": format_time(row["completed_at"]),
        "created_at": format_time(row["created_at"]),
        "updated_at": format_time(row["updated_at"]),
    }
    return task


def claimed_task_json(row: Row) -> dict[str, Any]:
    """The task object for the worker that claimed it: with the claim token."""
    return {**task_json(row), "claim_token": row["claim_token"]}


def log_json(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "task_id": row["task_id"],
        "event": row["event"],
        "status": row["status"],
        "attempt": row["attempt"],
        "worker_id": row["worker_id"],
        "api_key_id": row["api_key_id"],
        "message": row["message"],
        "metadata": json.loads(row["metadata"]) if row["metadata"] else None,
        "created_at": format_time(row["created_at"]),
    }


def audit_event_json(row: Row) -> dict[str, Any]:
    return {**row, "created_at": format_time(row["created_at"])}


def attempt_error_json(log: Row) -> dict[str, Any]:
    """How one attempt failed, from its row in the history."""
    metadata = json.loads(log["metadata"]) if log["metadata"] else {}
    return {
        "attempt": log["attempt"],
        "worker_id": log["worker_id"],
        "error_message": log["message"],
        "error_code": "lease_expired"
        if log["event"] == "lease_expired"
        else metadata.get("error_code"),
        "failed_at": format_time(log["created_at"]),
    }


def task_type_json(row: Row) -> dict[str, Any]:
    """A task type; with `param_schema` and `open_tasks` where the row has them."""
    task_type: dict[str, Any] = {
        "id": row["id"],
        "name": row["name"],
        "version": row["version"],
        "is_active": bool(row["is_active"]),
        "is_paused": bool(row["is_paused"]),
        "priority": row["priority"],
        "max_attempts": row["max_attempts"],
        "lease_seconds": row["lease_seconds"],
        "retry": json.loads(row["retry"]) if row["retry"] else None,
        "dedupe": row["dedupe"],
        "created_at": format_time(row["created_at"]),
        "updated_at": format_time(row["updated_at"]),
    }
    if "param_schema" in row:
        task_type["param_schema"] = json.loads(row["param_schema"])
    if "open_tasks" in row:
        task_type["open_tasks"] = row["open_tasks"]
    return task_type


def statistics_json(figures: dict[str, Any]) -> dict[str, Any]:
    return {**figures, "counted_at": format_time(figures["counted_at"])}


def worker_json(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "worker_id": row["id"],
        "status": row["status"],
        "first_seen_at": format_time(row["first_seen_at"]),
        "last_seen_at": format_time(row["last_seen_at"]),
        "tasks_held": row["tasks_held"],
        "tasks_completed": row["tasks_completed"],
        "tasks_failed": row["tasks_failed"],
        "metadata": json.loads(row["metadata"]) if row["metadata"] else None,
    }


def schedule_json(row: Row) -> dict[str, Any]:
    """A schedule; with `next_runs` where the row has them."""
    schedule: dict[str, Any] = {
        "id": row["id"],
        "name": row["name"],
        "type": row["type"],
        "task_type_id": row["task_type_id"],
        "params": json.loads(row["params"]),
        "priority": row["priority"],
        "max_attempts": row["max_attempts"],
        "overlap": row["overlap"],
        "cron": row["cron"],
        "timezone": row["timezone"],
        "interval_seconds": row["interval_seconds"],
        "is_active": bool(row["is_active"]),
        "next_run_at": format_time(row["next_run_at"]),
        "last_run_at": format_time(row["last_run_at"]),
        "last_outcome": row["last_outcome"],
        "last_task_id": row["last_task_id"],
        "last_error": row["last_error"],
        "created_at": format_time(row["created_at"]),
        "updated_at": format_time(row["updated_at"]),
    }
    if "next_runs" in row:
        schedule["next_runs"] = [format_time(due_at) for due_at in row["next_runs"]]
    return schedule


def key_json(row: Row) -> dict[str, Any]:
    """A key without its secret: never the key itself, never its hash."""
    return {
        "id": row["id"],
        "name": row["name"],
        "prefix": row["prefix"],
        "scopes": json.loads(row["scopes"]),
        "task_types": json.loads(row["task_types"]) if row["task_types"] else None,
        "rate_limit": row["rate_limit"],
        "expires_at": format_time(row["expires_at"]),
        "revoked_at": format_time(row["revoked_at"]),
        "last_used_at": format_time(row["last_used_at"]),
        "created_at": format_time(row["created_at"]),
    }
