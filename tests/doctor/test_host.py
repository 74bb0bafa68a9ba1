"""Settings, `.env`, the instance folder and the disk below it, each as it should be and not."""

import os
from pathlib import Path

import pytest

from taskmanager.doctor import folders
from tests.conftest import require
from tests.doctor.patients import Upload, remount_read_only

SECRET = "hunter2-hunter2-hunter2-hunter2-hunter2"


def test_on_a_host_where_all_is_well_nothing_is_wrong(upload: Upload) -> None:
    upload.start_queue()
    assert upload.run("maintain").returncode == 0

    report = upload.examine()

    assert {one["level"] for one in report.findings} == {"ok"}, report.findings
    assert report.exit_status == 0
    assert report.stderr == ""


def test_before_the_first_start_there_are_warnings_and_nothing_is_made(upload: Upload) -> None:
    before = upload.contents()
    report = upload.examine()
    assert (report.level("instance_folder"), report.level("database")) == ("warning", "warning")
    assert "keys" in report.not_checked()
    assert report.exit_status == 0
    assert upload.contents() == before
    assert not upload.instance.exists()


def test_the_doctor_leaves_no_file_behind_and_changes_none(upload: Upload) -> None:
    upload.start_queue()
    before = upload.contents()
    upload.examine()
    assert upload.contents() == before


def test_the_report_for_people_marks_what_is_wrong_and_says_what_to_do(upload: Upload) -> None:
    upload.start_queue()
    well = upload.run("doctor")
    lines = well.stdout.splitlines()
    assert lines[0].startswith("TaskManager ")
    assert lines[0].endswith(str(upload.folder))
    assert [line for line in lines if line and not line.startswith(" ")][3:-1] == [
        *("Program", "Settings", "Host", "Database", "Queue", "Network")
    ]
    assert lines[-1] == "1 warning."  # cron has never run
    (upload.folder / "schema.sql").unlink()

    ill = upload.run("doctor")
    assert ill.returncode == 1
    assert "  PROBLEM 1 file is missing: schema.sql. [files_missing]" in ill.stdout
    assert "          To do: Upload them again in binary mode" in ill.stdout
    assert ill.stdout.splitlines()[-1] == "1 problem, 1 warning."
    assert ill.stderr == ""


# Settings


def test_every_wrong_setting_is_told_at_once_and_the_rest_is_examined(upload: Upload) -> None:
    upload.start_queue()
    report = upload.examine(lease_seconds="soon", max_attempt="5", trusted_proxies="many")
    wrong = [one["found"] for one in report.findings if one["code"] == "settings"]
    assert len(wrong) == 3
    assert any("TASKMANAGER_LEASE_SECONDS is 'soon'" in one for one in wrong)
    assert any("Did you mean TASKMANAGER_MAX_ATTEMPTS?" in one for one in wrong)
    assert report.level("admin_key") == "ok"
    assert report.problems() == {"settings"}


def test_where_the_database_is_not_known_no_other_is_examined_in_its_place(upload: Upload) -> None:
    upload.start_queue()
    report = upload.examine(database_url=f"postgres://me:{SECRET}@host/queue")
    assert report.level("settings") == "problem"
    assert "database" not in report.codes()
    assert "the settings do not say which database" in report.not_checked()
    assert SECRET not in str(report)
    assert report.level("release_files") == "ok"

    report = upload.examine(table_prefix="my-shop_")
    assert "TASKMANAGER_TABLE_PREFIX is 'my-shop_'" in report.of("settings")["found"]
    assert "the settings do not say which database" in report.not_checked()


def test_an_option_of_the_database_that_does_not_exist_is_told(upload: Upload) -> None:
    report = upload.examine(database_url=f"mysql://me:{SECRET}@host/queue?tls=on")
    assert "tls" in report.of("database")["found"]
    assert report.level("database") == "problem"
    assert SECRET not in str(report)


def test_settings_that_cannot_be_read_are_a_problem_and_the_files_are_examined(
    upload: Upload,
) -> None:
    env = upload.folder / ".env"
    env.write_bytes("TASKMANAGER_PLUGINS=größe\n".encode("latin-1"))
    assert "UTF-8" in upload.examine().of("settings_unreadable")["found"]
    report = upload.examine()
    assert report.level("settings_unreadable") == "problem"
    assert report.level("release_files") == "ok"
    assert "plugins" in report.not_checked()


def test_every_line_of_env_that_cannot_be_read_is_told_and_no_other_database_examined(
    upload: Upload,
) -> None:
    upload.start_queue()
    env = upload.folder / ".env"
    env.write_text(f"TASKMANAGER_DATABASE_URL: mysql://me:{SECRET}@h/q\nB='\n")
    report = upload.examine()
    told = [one["found"] for one in report.findings if one["code"] == "settings_unreadable"]
    assert [one.partition(": ")[0] for one in told] == [f"{env}, line 1", f"{env}, line 2"]
    assert "database" not in report.codes()
    assert SECRET not in str(report)
    assert SECRET not in upload.run("stats").stderr
    assert "Instance folder" not in upload.run("doctor").stdout


@pytest.mark.parametrize(
    ("mode", "level"),
    [(0o600, "ok"), (0o400, "ok"), (0o640, "warning"), (0o644, "warning"), (0o666, "problem")],
)
def test_env_is_to_be_read_by_its_owner_alone(upload: Upload, mode: int, level: str) -> None:
    (upload.folder / ".env").write_text(f"TASKMANAGER_BOOTSTRAP_ADMIN_KEY={SECRET}\n")
    (upload.folder / ".env").chmod(mode)
    report = upload.examine()
    assert report.level("env_file") == level
    assert SECRET not in str(report)


def test_a_folder_in_the_place_of_env_is_a_problem(upload: Upload) -> None:
    (upload.folder / ".env").mkdir()
    assert upload.examine().level("env_file") == "problem"


def test_without_env_there_is_nothing_to_be_read(upload: Upload) -> None:
    assert upload.examine().of("env_file")["found"].startswith("Not applicable")


def test_a_bootstrap_key_is_a_warning_until_it_is_taken_out(upload: Upload) -> None:
    assert upload.examine(bootstrap_admin_key=SECRET).level("bootstrap_key") == "warning"
    assert upload.examine().level("bootstrap_key") == "ok"


def test_plugins_are_imported(upload: Upload) -> None:
    assert upload.examine().of("plugins")["found"].startswith("Not applicable")
    (upload.folder / "mine.py").write_text("")
    (upload.folder / "broken.py").write_text("raise RuntimeError('no')")
    assert upload.examine(plugins="mine").level("plugins") == "ok"
    report = upload.examine(plugins="mine,gone,broken")
    assert "gone (ModuleNotFoundError), broken (RuntimeError)" in report.of("plugins")["found"]
    assert report.level("plugins") == "problem"


# The instance folder


def test_a_folder_that_cannot_be_written_is_a_problem(upload: Upload, disk: Path) -> None:
    place = str(disk / "instance")
    upload.start_queue(instance_path=place)
    assert upload.examine(instance_path=place).level("instance_folder") == "ok"
    remount_read_only(disk)

    report = upload.examine(instance_path=place)

    assert "read-only file system" in report.of("instance_folder")["found"]
    assert report.problems() == {"instance_folder", "database"}  # a log is also written to read
    assert (
        "the speed of the disk. Reason: the instance folder is not writable" in report.not_checked()
    )
    assert report.exit_status == 1
    stopped = upload.run("init-db", instance_path=place)
    assert stopped.returncode == 1
    assert stopped.stderr.startswith(f"taskmanager: The folder {place} cannot be written by this")

    report = upload.examine(instance_path=str(disk / "another"))
    assert report.level("instance_folder") == "problem"
    assert "cannot be created" in report.of("instance_folder")["found"]


def test_something_else_in_the_place_of_the_folder_is_a_problem(upload: Upload) -> None:
    upload.instance.write_text("")
    report = upload.examine()
    assert "not a folder" in report.of("instance_folder")["found"]
    assert report.level("instance_folder") == "problem"


def test_the_folder_is_to_be_its_owners_alone(upload: Upload) -> None:
    upload.start_queue()
    assert upload.examine().level("instance_mode") == "ok"
    upload.instance.chmod(0o755)
    assert upload.examine().level("instance_mode") == "warning"
    upload.instance.chmod(0o700)
    require("Another user (which takes root)", os.geteuid() == 0)
    os.chown(upload.instance, 65534, 65534)
    report = upload.examine()
    assert "belongs to another user (id 65534)" in report.of("instance_mode")["found"]
    assert report.level("instance_mode") == "warning"


def test_files_of_the_queue_are_their_owners_alone_also_in_an_open_folder(upload: Upload) -> None:
    upload.instance.mkdir()
    upload.instance.chmod(0o755)
    upload.start_queue()
    assert upload.run("maintain").returncode == 0
    modes = {file.name: file.stat().st_mode & 0o777 for file in upload.instance.iterdir()}
    assert {"taskmanager.db", "maintenance.lock"} <= modes.keys()
    assert set(modes.values()) == {0o600}, modes
    assert "file_modes" not in upload.examine().codes()

    (upload.instance / "taskmanager.db").chmod(0o644)
    found = upload.examine().of("file_modes")
    assert (found["level"], "taskmanager.db (0644)" in found["found"]) == ("warning", True)
    upload.instance.chmod(0o700)
    assert "file_modes" not in upload.examine().codes()


def test_little_space_is_a_warning_and_none_a_problem(upload: Upload, disk: Path) -> None:
    upload.start_queue()
    assert upload.examine().level("disk_space") == "ok"
    place = disk / "instance"
    place.mkdir(mode=0o700)
    report = upload.examine(instance_path=str(place))
    assert report.level("disk_space") == "warning"
    (disk / "filler").write_bytes(bytes(15_000_000))
    assert upload.examine(instance_path=str(place)).level("disk_space") == "problem"


def test_each_disk_that_is_written_to_is_looked_at_once(upload: Upload, disk: Path) -> None:
    report = upload.examine(database_url=f"sqlite:///{disk}/queue.db?journal=delete")
    spaces = [one for one in report.findings if one["code"] == "disk_space"]
    assert [one["level"] for one in spaces] == ["ok", "warning"]
    assert "disk of the database" in spaces[1]["found"]


def test_a_disk_on_which_no_file_can_be_made_is_full() -> None:
    assert folders.judge_space("it", 10**12, inodes=20).level == "problem"
    assert folders.judge_space("it", 10**12, inodes=5_000).level == "ok"


def test_the_disk_is_timed_and_the_median_counts(upload: Upload) -> None:
    upload.start_queue()
    assert "median of" in upload.examine().of("disk_sync")["found"]
    slow = folders.judge_sync([400.0, 1.0, 80.0, 90.0, 70.0], uses_sqlite=True)
    assert slow.level == "warning"
    assert "80.0 ms" in slow.found
    assert folders.judge_sync([400.0, 1.0, 2.0], uses_sqlite=True).level == "ok"
    assert folders.judge_sync([400.0, 80.0, 90.0], uses_sqlite=False).level == "ok"


# Rate limits, as far as a command can tell


def test_counts_that_each_process_keeps_for_itself_are_a_warning(upload: Upload) -> None:
    upload.start_queue()
    assert upload.examine().level("rate_limits") == "ok"
    assert upload.examine(rate_limit_storage_uri="memory://").level("rate_limits") == "warning"


def test_a_storage_without_its_library_is_a_problem(upload: Upload) -> None:
    report = upload.examine(rate_limit_storage_uri=f"redis://:{SECRET}@localhost:1")
    assert report.level("rate_limits") == "problem"
    assert "'redis'" in report.of("rate_limits")["found"]
    assert SECRET not in str(report)


def test_a_file_of_counts_that_cannot_be_written_is_a_warning(upload: Upload, disk: Path) -> None:
    place = str(disk / "instance")
    upload.start_queue(instance_path=place)
    remount_read_only(disk)
    assert upload.examine(instance_path=place).level("rate_limits") == "warning"
