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
        "TASKMANAGER_HEARTBEAT_SECONDS=13\nOTHER_PROGRAM=x\nTASKMANAGER_PLUGINS=\n"
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
    ("content", "line", "sentence"),
    [
        (b"\nTASKMANAGER_DATABASE_URL: mysql://me:s3cret@h/q", 2, "This is not NAME=value"),
        (b"TASKMANAGER_DATABASE_URL mysql://me:s3cret@h/q?ssl_ca=/a", 1, "not NAME=value"),
        (b"TASKMANAGER_DATABASE_URL:mysql://me:s3cret@h/q?ssl_ca=/a", 1, "not NAME=value"),
        (b"TASKMANAGER_PLUGINS", 1, "not NAME=value"),
        (b"mysql://me:s3cret@h/q", 1, "not NAME=value"),
        (b'A=1\nTASKMANAGER_DATABASE_URL="mysql://me:s3cret@h/q\nB="2"', 2, "Close the quote"),
        (b"TASKMANAGER_DATABASE_URL='mysql://me:s3cret@h/q'x", 1, "Close the quote"),
        (b'TASKMANAGER_DATABASE_URL=mysql://me:s3cret@h/q"', 1, "has no beginning"),
        ("TASKMANAGER_INSTANCE_PATH=“/srv/s3cret”".encode(), 1, "typographic"),
        (b"OTHER='s3cret\n", 1, "Close the quote"),
        (b"# \xc3\xbc\r\nTASKMANAGER_PLUGINS=s3cret\xfc", 2, "Save the file as UTF-8"),
        (b"TASKMANAGER_INSTANCE_PATH=${S3CRET}/x", 1, "no variable of that name"),
        (b'TASKMANAGER_INSTANCE_PATH="${S3CRET}/x"', 1, "no variable of that name"),
        (b"TASKMANAGER_LEASE_SECONDS=5\n\rTASKMANAGER_LEASE_SECONDS=6", 3, "value in line 1"),
        (b"taskmanager_database_url=mysql://me:s3cret@h/q", 1, "mean TASKMANAGER_DATABASE_URL"),
        (b"Taskmanager_Lease_Seconds=5", 1, "mean TASKMANAGER_LEASE_SECONDS?"),
        (b"TASK_MANAGER_LEASE_SECONDS=5", 1, "mean TASKMANAGER_LEASE_SECONDS?"),
        (b"TASKMANGER_DATABASE_URL=mysql://me:s3cret@h/q", 1, "mean TASKMANAGER_DATABASE_URL"),
        (b"TASKMANAGER-DATABASE-URL=mysql://me:s3cret@h/q", 1, "mean TASKMANAGER_DATABASE_URL"),
        (b"TASKMANAGER_LEASE_SECONDS=five", 1, "a whole number"),
    ],
)
def test_a_line_of_dotenv_that_is_not_what_it_should_be_stops_the_start_with_its_number(
    app_root: Path, content: bytes, line: int, sentence: str
) -> None:
    (app_root / ".env").write_bytes(content)
    with pytest.raises(ConfigurationError) as refused:
        load_settings(environ={})
    assert f"{app_root / '.env'}, line {line}" in refused.value.message
    assert sentence in refused.value.message
    assert "s3cret" not in refused.value.message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_dotenv_in_a_wide_encoding_stops_the_start(app_root: Path, encoding: str) -> None:
    (app_root / ".env").write_text("TASKMANAGER_LEASE_SECONDS=5\n", encoding=encoding)
    with pytest.raises(ConfigurationError, match="Save it as UTF-8"):
        load_settings(environ={})


def test_dotenv_that_is_a_link_to_nothing_stops_the_start(app_root: Path) -> None:
    (app_root / ".env").symlink_to("gone")
    with pytest.raises(ConfigurationError, match="leads to no file"):
        load_settings(environ={})


def test_dotenv_that_cannot_be_read_stops_the_start(app_root: Path) -> None:
    (app_root / ".env").symlink_to(".env")  # not even root can read a loop
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_settings(environ={})


def test_a_folder_in_the_place_of_dotenv_is_left_alone(app_root: Path) -> None:
    (app_root / ".env").mkdir()
    assert load_settings(environ={}).lease_seconds == 300


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("/srv/a#b@c%d?e", "/srv/a#b@c%d?e"),
        ("/srv/a # a comment", "/srv/a"),
        ("'/srv/a # b'", "/srv/a # b"),
        ('"/srv/a # b" # a comment', "/srv/a # b"),
        ("'/srv/${NONE}'", "/srv/${NONE}"),
        ("${BEFORE}/${GIVEN}/${NONE:-c}", "/srv/b/c"),
        ('"${BEFORE}/a"', "/srv/a"),
        (r"'/srv/it\'s'", "/srv/it's"),
        (r'"/srv/\"a\\"', '/srv/"a\\'),
        ("/srv/a$b", "/srv/a$b"),
    ],
)
@pytest.mark.parametrize(("start", "end"), [("", "\n"), ("\ufeff", "\r\n"), ("", "\r")])
def test_what_is_written_in_dotenv_is_what_counts(
    app_root: Path, line: str, path: str, start: str, end: str
) -> None:
    lines = ["export BEFORE=/srv", f"  export TASKMANAGER_INSTANCE_PATH ={line}", ""]
    (app_root / ".env").write_bytes((start + end.join(lines)).encode())
    found = load_settings(environ={"GIVEN": "b"})
    assert str(found.instance_path) == path
    assert str(found.sqlite_file) == f"{path}/taskmanager.db"


def test_a_comment_is_no_value(app_root: Path) -> None:
    (app_root / ".env").write_text("TASKMANAGER_PLUGINS= # none\n#TASKMANAGER_LEASE_SECONDS=5\n")
    settings = load_settings(environ={})
    assert (settings.plugins, settings.lease_seconds) == ((), 300)


def test_other_programs_may_have_values_of_several_lines_in_dotenv(app_root: Path) -> None:
    (app_root / ".env").write_text(
        "KEY=\"one\ntwo's\nTASKMANAGER_LEASE_SECONDS=1\n\" # end\nX=a'\nX=${NO}\n"
        "TASKMANAGER_LEASE_SECONDS=7\nTASKMANAGER_LEASE_SECONDS=7\n"
    )
    assert load_settings(environ={}).lease_seconds == 7


@pytest.mark.parametrize("name", ["taskmanager_lease_seconds", "Taskmanager_Lease_Seconds"])
def test_a_name_in_small_letters_in_the_environment_stops_the_start(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"mean TASKMANAGER_LEASE_SECONDS\?"):
        load_settings(environ={name: "5"})


@pytest.mark.parametrize("path", ["$HOME/queue", "${HOME}/queue", ""])
def test_an_instance_path_that_names_no_folder_stops_the_start(path: str) -> None:
    with pytest.raises(ConfigurationError, match="TASKMANAGER_INSTANCE_PATH is"):
        load_settings(environ={"TASKMANAGER_INSTANCE_PATH": path})


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
