"""Generated requests, good and bad, against the API's own OpenAPI document.

No answer may be a 5xx, nor have a status, content type, header or shape that the
document does not name. FUZZ_REQUESTS says how many, at the least, are sent to
each database; a run by night takes 20,000.
"""

import itertools
import os
from collections import Counter
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.conftest import Api, make_key

pytestmark = pytest.mark.slow

FIRST_SEED = 20_260_131
REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "1000"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
TYPES = ("job", "strict", "paused", "closed")
WORKERS = ("worker-1", "worker-2")
STRICT = {
    "type": "object",
    "properties": {"url": {"type": "string", "pattern": "^https://"}, "n": {"type": "integer"}},
    "required": ["url"],
}


class World:
    """What is there for requests to meet: ids by the tag of the calls that take them."""

    def __init__(self, api: Api) -> None:
        own = api.get("/api/admin/keys")["keys"]
        self.own_keys = {key["id"] for key in own}
        for name in TYPES:
            api.register(name, STRICT if name == "strict" else None)
        tasks = [api.create("job", {"n": number}, priority=number % 3)["id"] for number in range(8)]
        tasks.append(api.create("strict", {"url": "https://example.org"})["id"])
        tasks.append(api.create("job", delay_seconds=3_600)["id"])
        self.tokens = []
        for number in range(4):
            claimed = api.claim(WORKERS[number % 2])
            self.tokens.append(claimed["claim_token"])
            if number == 0:
                api.complete(claimed, result={"done": True})
            if number == 1:
                api.complete(claimed, success=False, is_retryable=False, error="broken")
        api.post(f"/api/tasks/{tasks[-1]}/cancel", {})
        api.patch("/api/task-types/paused", {"is_paused": True})
        api.patch("/api/task-types/closed", {"is_active": False})
        schedules = [
            api.post(
                "/api/schedules",
                {"name": f"s{hour}", "type": "job", "params": {}, "cron": f"0 {hour} * * *"},
                201,
            )["id"]
            for hour in range(3)
        ]
        keys = [
            api.post("/api/admin/keys", {"name": f"k{n}", "role": "worker"}, 201)["id"]
            for n in range(4)
        ]
        self.ids = {"tasks": tasks, "claims": tasks, "schedules": schedules, "keys": keys}

    def known_values(self, tag: str) -> dict[str, tuple[Any, ...]]:
        """Field or parameter → values with which a request gets beyond "no such thing"."""
        return {
            "id": WORKERS if tag == "workers" else tuple(self.ids.get(tag, [1])),
            "name": TYPES if tag == "task_types" else ("s0", "n1", "n2"),
            "type": TYPES,
            "worker_id": WORKERS,
            "claim_token": tuple(self.tokens),
            "params": ({}, {"url": "https://example.org/"}, {"url": 1}),
        }


def aim(case: Any, world: World, data: st.DataObject, tag: str) -> None:
    """Puts values that exist into some of the places where a generated one stands."""
    known = world.known_values(tag)
    places = [case.path_parameters]
    if isinstance(case.body, dict):
        places += [case.body, *_parts(case.body)]
    for place in places:
        for name in set(place or {}) & set(known):
            if data.draw(st.booleans()):
                place[name] = data.draw(st.sampled_from(known[name]))
    if tag == "keys" and case.path_parameters and case.path_parameters.get("id") in world.own_keys:
        case.path_parameters["id"] = world.ids["keys"][0]


def _parts(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The items of the calls that take many."""
    lists = [body.get(name) for name in ("tasks", "completions")]
    return [item for some in lists if isinstance(some, list) for item in some if _is_object(item)]


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


@pytest.mark.timeout(3_600)
def test_no_generated_request_gets_an_answer_that_is_not_documented(app: Flask) -> None:
    api = Api(app.test_client(), make_key("admin", rate_limit="0"))
    world = World(api)
    schema = schemathesis.openapi.from_wsgi("/api/openapi.json", app)
    operations = [result.ok() for result in schema.get_all_operations()]
    # All but the one that the document itself came from.
    routes = [rule for rule in app.url_map.iter_rules() if rule.rule.startswith("/api/")]
    assert len(operations) == len(routes) - 1
    kinds = [(operation, mode) for operation in operations for mode in _modes(operation)]
    statuses: Counter[int] = Counter()
    # A call with little to vary runs out of requests; what is missing then is made up by others.
    for begin in itertools.count(FIRST_SEED):
        each = (REQUESTS - statuses.total()) // len(kinds) + 1
        for operation, mode in kinds:
            _send_many(operation, mode, each, begin, api, world, statuses)
        if statuses.total() >= REQUESTS:
            break
    assert set(statuses) >= {200, 201, 400, 404, 409}, statuses
    assert statuses[401] + statuses[429] < statuses.total() / 10, statuses


def _modes(operation: Any) -> list[GenerationMode]:
    """Nothing can be wrong about a request that says nothing."""
    described = operation.definition.raw
    says_something = described["parameters"] or "requestBody" in described
    return list(GenerationMode) if says_something else [GenerationMode.POSITIVE]


def _send_many(
    operation: Any,
    mode: Any,
    count: int,
    begin: int,
    api: Api,
    world: World,
    statuses: Counter[int],
) -> None:
    """Sends `count` generated requests to one call, the same ones in every run."""
    tag = operation.definition.raw["tags"][0]

    @seed(begin)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
    def send(case: Any, data: st.DataObject) -> None:
        aim(case, world, data, tag)
        response = case.call(headers={"X-API-Key": api.key})
        statuses[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    send()
