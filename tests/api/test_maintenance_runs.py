"""What is kept of the last run of maintenance, on each of its three roads."""

from taskmanager.db.statements import execute
from taskmanager.queue.maintenance_runs import last_runs
from tests.conftest import Api, Clock


def test_nothing_is_known_before_the_first_run(api: Api) -> None:
    assert last_runs() == {}


def test_every_run_by_address_is_noted(api: Api, clock: Clock) -> None:
    api.register()
    api.create(delay_seconds=5)
    for moved in (0, 1, 0):
        api.post("/api/maintenance/run", {})
        run = last_runs()["http"]
        assert (run.last_run_at, run.tasks_moved) == (clock.now, moved)
        assert 0 <= run.duration_ms < 10_000
        clock.advance(6)
    assert set(last_runs()) == {"http"}


def test_claims_note_what_they_did_once_a_minute_and_nothing_where_nothing_was_due(
    api: Api, clock: Clock
) -> None:
    api.register()
    api.claim(status=404)
    assert last_runs() == {}

    for seconds, noted in ((5, True), (5, False), (60, True)):
        api.create(delay_seconds=seconds)
        clock.advance(seconds)
        api.claim()
        run = last_runs()["claims"]
        assert (run.last_run_at == clock.now) is noted
        assert run.tasks_moved == 1


def test_a_claim_succeeds_where_the_note_cannot_be_written(api: Api, clock: Clock) -> None:
    api.register()
    api.create(delay_seconds=5)
    clock.advance(5)
    execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON maintenance_runs FOR EACH ROW "
        "BEGIN INSERT INTO missing VALUES (1); END"
    )
    try:
        assert api.claim()["status"] == "claimed"
        assert last_runs() == {}
    finally:
        execute("DROP TRIGGER refuse")
