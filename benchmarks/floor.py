"""The floor: the same JSON over bare Flask under gunicorn, with no database and no rules."""

from flask import Flask, Response, jsonify, request

TASK = {
    "id": 1,
    "type": "job",
    "status": "pending",
    "params": {"url": "https://example.com/1", "depth": 3},
    "result": None,
    "priority": 0,
    "attempts": 0,
    "max_attempts": 3,
    "dedupe_key": "0" * 64,
    "worker_id": None,
    "created_at": "2026-01-01T00:00:00.000Z",
    "updated_at": "2026-01-01T00:00:00.000Z",
}


def create_app() -> Flask:
    app = Flask(__name__)

    @app.post("/api/<path:path>")
    def answer(path: str) -> tuple[Response, int]:
        body = request.get_json()
        task = {**TASK, "params": body.get("params", TASK["params"])}
        return jsonify(success=True, message="OK", data=task, timestamp=1), 200

    @app.get("/api/health")
    def health() -> Response:
        return jsonify(success=True)

    return app
