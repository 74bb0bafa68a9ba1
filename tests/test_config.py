"""Settings: where they come from, and what stops the start."""

from pathlib import Path

import pytest

from taskmanager import config
from taskmanager.config import load_settings, setting_names
from taskmanager.errors import ConfigurationError


@pytest.fixture(autouse=True)
def app_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own in the place where `.env` is looked for."""
    monkeypatch.setattr(config, "APP_ROOT", tmp_path)
    return tmp_path


def test_every_setting_has_its_documented_default(app_root: Path) -> None:
    settings = load_settings(environ={})
    assert settings.instance_path == app_root / "instance"
    assert settings.effective_database_url == f"sqlite:///{app_root}/instance/taskmanager.db"
    assert (settings.lease_seconds, settings.heartbeat_seconds) == (300, 30)
    assert (settings.max_attempts, settings.max_body_bytes) == (3, 1_048_576)
    assert (settings.sqlite_synchronous, settings.retention_days) == ("FULL", 30)
    assert (settings.bootstrap_admin_key, settings.plugins) == ("", ())


def test_every_setting_says_what_it_is_for() -> None:
    fields = config.Settings.__dataclass_fields__
    assert all(fields[name].metadata["help"] for name in setting_names().values())


def test_dotenv_gives_way_to_the_environment_and_that_to_what_is_passed_in(app_root: Path) -> None:
    (app_root / ".env").write_text(
        "# a comment\nTASKMANAGER_LEASE_SECONDS=11\nTASKMANAGER_MAX_ATTEMPTS='12'\n"
        "TASKMANAGER_HEARTBEAT_SECONDS=13\nOTHER_PROGRAM=x\nTASKMANAGER_PLUGINS\n"
    )
    settings = load_settings(
        {"max_attempts": 32},
        environ={"TASKMANAGER_MAX_ATTEMPTS": "22", "TASKMANAGER_HEARTBEAT_SECONDS": "23"},
    )
    assert (settings.lease_seconds, settings.heartbeat_seconds) == (11, 23)
    assert (settings.max_attempts, settings.plugins) == (32, ())


def test_the_process_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKMANAGER_LEASE_SECONDS", " 77 ")
    assert load_settings().lease_seconds == 77


def test_values_are_read_in_the_forms_that_people_write(app_root: Path) -> None:
    settings = load_settings(
        environ={
            "TASKMANAGER_SQLITE_SYNCHRONOUS": "normal",
            "TASKMANAGER_PLUGINS": " one.checks , ,two ",
            "TASKMANAGER_INSTANCE_PATH": "data",
            "TASKMANAGER_DATABASE_URL": "mysql://me:p%40ss@db:3307/queue",
        }
    )
    assert settings.sqlite_synchronous == "NORMAL"
    assert settings.plugins == ("one.checks", "two")
    assert settings.instance_path == app_root / "data"
    assert settings.effective_database_url == "mysql://me:p%40ss@db:3307/queue"


def test_an_absolute_instance_path_and_the_home_folder_are_understood(
    app_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(app_root))
    assert load_settings(environ={"TASKMANAGER_INSTANCE_PATH": "/srv/q"}).instance_path == Path(
        "/srv/q"
    )
    assert load_settings(environ={"TASKMANAGER_INSTANCE_PATH": "~/q"}).instance_path == (
        app_root / "q"
    )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////srv/q.db?journal=wal", "/srv/q.db"),
        ("sqlite:///q.db", f"{Path.cwd()}/q.db"),
        ("mysql://me:p%40s@db:3307/queue?ssl_ca=/a@b.pem", "mysql://db:3307/queue"),
        ("mysql://me:p@s@localhost/queue", "mysql://localhost/queue"),
    ],
)
def test_the_place_of_the_database_is_shown_without_the_password(url: str, shown: str) -> None:
    settings = load_settings(environ={"TASKMANAGER_DATABASE_URL": url})
    assert settings.database_place == shown


def test_a_misspelt_name_stops_the_start_with_the_nearest_one() -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_settings(environ={"TASKMANAGER_LEASE_SECOND": "5"})
    assert "TASKMANAGER_LEASE_SECOND is not a setting" in refused.value.message
    assert "Did you mean TASKMANAGER_LEASE_SECONDS?" in refused.value.message


def test_a_name_like_no_other_stops_the_start_with_the_list() -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_settings(environ={"TASKMANAGER_ZZZ": "5"})
    assert all(name in refused.value.message for name in setting_names())


def test_a_misspelt_name_in_dotenv_is_noticed_too(app_root: Path) -> None:
    (app_root / ".env").write_text("TASKMANAGER_PLUGIN=x\n")
    with pytest.raises(ConfigurationError, match="TASKMANAGER_PLUGINS"):
        load_settings(environ={})


def test_an_unknown_override_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="lease_second"):
        load_settings({"lease_second": 5}, environ={})


def test_names_of_other_programs_and_of_the_test_suite_are_left_alone() -> None:
    assert load_settings(environ={"TASKMANAGER_TEST_REQUIRE": "all", "PATH": "/bin"})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("LEASE_SECONDS", "0", "a whole number from 1 to 86400"),
        ("LEASE_SECONDS", "86401", "a whole number from 1 to 86400"),
        ("LEASE_SECONDS", "five", "a whole number from 1 to 86400"),
        ("LEASE_SECONDS", "", "a whole number"),
        ("HEARTBEAT_SECONDS", "-1", "a whole number from 1 to 3600"),
        ("MAX_ATTEMPTS", "1.5", "a whole number from 1 to 100"),
        ("MAX_BODY_BYTES", "10", "a whole number from 1024"),
        ("RETENTION_DAYS", "-1", "a whole number from 0"),
        ("SQLITE_SYNCHRONOUS", "OFF", "FULL or NORMAL"),
        ("DATABASE_URL", "postgres://x", "sqlite:///path/to/file.db or mysql://"),
        ("TABLE_PREFIX", "2nd_", "letters (a to z), digits and _, such as shop_"),
        ("TABLE_PREFIX", "my-shop", "letters (a to z), digits and _, such as shop_"),
        ("TABLE_PREFIX", "läden_", "letters (a to z), digits and _, such as shop_"),
        ("TABLE_PREFIX", "x" * 21, "1 to 20 letters"),
        ("TABLE_PREFIX", "SQLite_", "beginning with neither a digit nor sqlite_"),
        ("BOOTSTRAP_ADMIN_KEY", "short", "at least 32 random characters"),
    ],
)
def test_a_bad_value_stops_the_start_and_says_what_to_write(
    name: str, value: str, expected: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_settings(environ={f"TASKMANAGER_{name}": value})
    assert f"TASKMANAGER_{name}" in refused.value.message
    assert expected in refused.value.message


@pytest.mark.parametrize("prefix", ["", "shop_", "_", "S2", "x" * 20])
def test_a_table_prefix_is_taken_as_it_is_written(prefix: str) -> None:
    assert load_settings(environ={"TASKMANAGER_TABLE_PREFIX": prefix}).table_prefix == prefix


def test_a_bad_database_url_is_not_repeated_for_it_holds_a_password() -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_settings(environ={"TASKMANAGER_DATABASE_URL": "mysqli://me:s3cret@localhost/queue"})
    assert "s3cret" not in refused.value.message
    assert "TASKMANAGER_DATABASE_URL" in refused.value.message
