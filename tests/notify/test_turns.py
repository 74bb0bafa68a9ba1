"""Which endpoint is sent to next, and what a look at the outbox costs."""

from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any

import pytest

from taskmanager.db.connection import database
from taskmanager.db.statements import execute, fetch_all, fetch_value
from taskmanager.notify import deliveries
from taskmanager.notify.sending import Answer, NotSent, Rules
from tests.conftest import Api
from tests.notify.conftest import LOOPBACK, Receiver
from tests.notify.test_webhooks import store_deliveries

BROKEN = "http://127.0.0.1:1/"
RULES = Rules(is_http_allowed=True, allowed_networks=[ip_network(LOOPBACK)])


def send(resting: dict[int, float] | None = None, **options: Any) -> int:
    options = {"budget_seconds": 30, **options}
    return deliveries.send_due(rules=RULES, resting=resting, **options)


def create(api: Api, name: str, url: str = BROKEN) -> Any:
    return api.post("/api/webhooks", {"name": name, "url": url}, 201)


def attempts_of(webhook: Any) -> int:
    query = "SELECT SUM(attempts) FROM {webhook_deliveries} WHERE webhook_id = ?"
    return int(fetch_value(query, (webhook["id"],)))


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time.monotonic() says to those who send; only a test moves it."""
    now = [1_000.0]
    monkeypatch.setattr(deliveries, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_an_endpoint_that_fails_rests_and_is_tried_again(api: Api) -> None:
    broken = create(api, "broken")
    store_deliveries(broken, 3)
    resting: dict[int, float] = {}
    for expected in (1, 1):  # at once, and again at once
        assert send(resting) == 0
        assert attempts_of(broken) == expected
    resting[broken["id"]] = 0
    send(resting)
    assert attempts_of(broken) == 2


def test_the_longer_a_failed_attempt_took_the_longer_the_endpoint_rests(
    api: Api, seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def time_out(*_: Any, **__: Any) -> Answer:
        seconds[0] += 10
        raise NotSent("No answer.")

    monkeypatch.setattr(deliveries, "post", time_out)
    silent = create(api, "silent")
    store_deliveries(silent, 1)
    resting: dict[int, float] = {}
    send(resting)
    assert resting == {silent["id"]: seconds[0] + 10 * deliveries.REST_FACTOR}


def test_a_slow_endpoint_with_a_backlog_holds_up_no_other(
    api: Api, seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(url: str, *_: Any, **__: Any) -> Answer:
        seconds[0] += 9 if url.endswith("/slow") else 0.01
        return Answer(200, b"")

    monkeypatch.setattr(deliveries, "post", answer)
    slow, fast = create(api, "slow", f"{BROKEN}slow"), create(api, "fast")
    store_deliveries(slow, 20)
    store_deliveries(fast, 60)
    send()
    assert attempts_of(fast) == 60
    assert 0 < attempts_of(slow) < 20


def test_no_attempt_begins_once_the_process_is_about_to_stop(api: Api, receiver: Receiver) -> None:
    webhook = create(api, "billing", receiver.url)
    store_deliveries(webhook, 3)
    assert send(is_stopping=lambda: len(receiver.received) == 2) == 2
    assert send(is_stopping=lambda: True) == 0
    assert attempts_of(webhook) == 2


def statements_of_a_look() -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []

    def note(event: Any) -> None:
        found.append((event.sql, event.params))

    database.query_hooks.append(note)
    send()
    database.query_hooks.remove(note)
    return found


def test_with_nothing_to_send_a_look_is_one_statement(api: Api, receiver: Receiver) -> None:
    assert len(statements_of_a_look()) == 1
    webhook = create(api, "billing", receiver.url)
    assert len(statements_of_a_look()) == 1
    store_deliveries(webhook, 3)
    api.patch(f"/api/webhooks/{webhook['id']}", {"is_active": False})
    assert len(statements_of_a_look()) == 1


def test_a_look_reads_one_entry_of_the_index_for_each_endpoint(
    api: Api, receiver: Receiver, engine: str
) -> None:
    """However much waits for an endpoint that is switched off, or lies there delivered."""
    webhooks = [create(api, f"w{n}", receiver.url) for n in range(5)]
    for webhook in webhooks:
        store_deliveries(webhook, 400, status="delivered")
        store_deliveries(webhook, 100)
    execute("UPDATE {webhooks} SET is_active = 0 WHERE id <> ?", (webhooks[-1]["id"],))
    execute("UPDATE {webhook_deliveries} SET next_attempt_at = next_attempt_at + 60000")
    execute("ANALYZE" if engine == "sqlite" else "ANALYZE TABLE {webhook_deliveries}").fetchall()
    [(sql, values)] = statements_of_a_look()
    plan = fetch_all(f"EXPLAIN {'QUERY PLAN' if engine == 'sqlite' else ''} {sql}", values)
    [of_deliveries] = [row for row in plan if "webhook_deliveries" in str(row)]
    assert "webhook_deliveries_by_next_attempt_at" in str(of_deliveries)
    assert "filesort" not in str(of_deliveries)
    assert "TEMP B-TREE" not in str(plan)
    if engine == "sqlite":
        assert "(webhook_id=? AND status=?)" in str(of_deliveries)
    else:
        before = rows_read()
        send()
        assert rows_read() - before < 20


def rows_read() -> int:
    counted = fetch_all("SHOW SESSION STATUS LIKE ?", ("Handler_read%",))
    return sum(int(row["Value"]) for row in counted)
