"""How long the server needs for each hostile schema and its params.

    python -m benchmarks.hostile_schemas

Registers and uses every case of `tests/params/hostile_cases.py` over HTTP in
this process, on a SQLite database of its own, and prints the slowest answers.
The second column is the time the processor worked, which says more on a machine
that others use too. Exit status 1 when an answer took longer than 250 ms of that.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient

from taskmanager.access import keys
from taskmanager.access.caller import OPERATOR
from taskmanager.app import create_app
from taskmanager.clock import utc_now
from tests.params.hostile_cases import CASES

LIMIT_MILLISECONDS = 250
SHOWN = 15

Answer = tuple[float, float, int, str]


def timed(client: FlaskClient, key: str, path: str, body: Any, name: str) -> Answer:
    # Encoding the request is the client's work.
    data = client.application.json.dumps(body).encode()
    wall, cpu = time.perf_counter(), time.process_time()
    response = client.post(
        path, data=data, headers={"X-API-Key": key, "Content-Type": "application/json"}
    )
    taken = (time.process_time() - cpu) * 1000, (time.perf_counter() - wall) * 1000
    assert response.status_code in (200, 201, 400), response.get_json()
    return *taken, response.status_code, name


def main() -> None:
    answers: list[Answer] = []
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(
            {
                "instance_path": Path(folder),
                "database_url": f"sqlite:///{folder}/queue.db",
                "rate_limit": "0",
            }
        )
        _, key = keys.create_key(
            name="benchmark", scopes=keys.ROLES["admin"], now=utc_now(), caller=OPERATOR
        )
        client = app.test_client()
        for case in CASES:
            body = {"name": "hostile", "version": "1", "param_schema": case.schema}
            path = "/api/task-types/register"
            answers.append(timed(client, key, path, body, f"register: {case.name}"))
            if answers[-1][2] != 400:
                body = {"type": "hostile", "params": case.params}
                answers.append(timed(client, key, "/api/tasks", body, f"create: {case.name}"))
    answers.sort(reverse=True)
    print(f"{len(CASES)} cases, {len(answers)} answers; the slowest:")
    print("   CPU ms   wall ms  status")
    for cpu, wall, status, name in answers[:SHOWN]:
        print(f"{cpu:9.1f} {wall:9.1f}  {status}  {name}")
    raise SystemExit(answers[0][0] > LIMIT_MILLISECONDS)


if __name__ == "__main__":
    main()
