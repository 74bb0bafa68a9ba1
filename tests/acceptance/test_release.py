"""The release as it reaches a shared host: made of a commit, unpacked, started, broken."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import venv
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from taskmanager.manifest import Difference, Fault, NoManifest, compare_with_manifest
from tests.support.releases.current import ROOT, commit, git, release

ADMIN_KEY = "an-admin-key-that-is-only-used-in-this-test"


@pytest.fixture
def host(archive: Path, tmp_path: Path) -> Path:
    """The folder on the host after the upload."""
    folder = tmp_path / "host"
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(folder)
    return folder


def test_the_release_is_named_for_the_version_and_holds_what_is_uploaded(archive: Path) -> None:
    with zipfile.ZipFile(archive) as zipped:
        names = zipped.namelist()
        version = json.loads(zipped.read("taskmanager/__init__.py").decode().split(" = ")[1])
        modes = {entry.external_attr >> 16 for entry in zipped.infolist()}
    assert archive.name == f"taskmanager-{version}.zip"
    assert {name.partition("/")[0] for name in names} == {
        *("passenger_wsgi.py", ".htaccess", "schema.sql", "requirements.txt", ".env.example"),
        *("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"),
        *("docs", "taskmanager"),
        *("setup.cfg", "pyproject.toml", "MANIFEST.sha256"),
    }
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "taskmanager").rglob("*.*")}
    uploaded = {name for name in names if name.startswith("taskmanager/")}
    assert uploaded == {name for name in package if "__pycache__" not in name}
    assert modes == {0o100644}


def test_the_same_commit_gives_the_same_bytes_elsewhere(
    archive: Path, checkout: Path, tmp_path: Path
) -> None:
    git(tmp_path, "clone", "--quiet", str(checkout), "elsewhere")
    done = release(tmp_path / "elsewhere", tmp_path / "out")
    assert Path(done.stdout.strip()).read_bytes() == archive.read_bytes()


def test_a_tree_with_changes_is_refused_and_they_are_named(checkout: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", str(checkout), "changed")
    tree = tmp_path / "changed"
    (tree / "schema.sql").write_text("-- nothing")
    (tree / "taskmanager" / "forgotten.py").touch()
    done = release(tree, tmp_path / "out")
    assert done.returncode == 1
    assert "schema.sql" in done.stderr
    assert "taskmanager/forgotten.py" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_of_which_nobody_said_whether_it_is_uploaded_is_refused(
    checkout: Path, tmp_path: Path
) -> None:
    git(tmp_path, "clone", "--quiet", str(checkout), "more")
    (tmp_path / "more" / "notes.txt").touch()
    commit(tmp_path / "more")
    done = release(tmp_path / "more", tmp_path / "out")
    assert done.returncode == 1
    assert "notes.txt" in done.stderr


def required_distributions(
    requirements: Iterable[str],
) -> Iterator[importlib.metadata.Distribution]:
    """What pip would install for these lines, out of what this interpreter has."""
    waiting, seen = [Requirement(line) for line in requirements], set()
    while waiting:
        requirement = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = importlib.metadata.distribution(requirement.name)
        assert requirement.specifier.contains(found.version), requirement
        if requirement.name.lower() not in seen:
            seen.add(requirement.name.lower())
            yield found
            waiting += [Requirement(line) for line in found.requires or ()]


def make_environment(folder: Path, requirements: Path) -> Path:
    """A virtual environment with what `requirements` names and nothing else; its interpreter."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    lines = requirements.read_text(encoding="utf-8").splitlines()
    for found in required_distributions(line for line in lines if line[:1] not in ("", "#")):
        for top in {Path(file).parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            (packages / top).symlink_to(str(found.locate_file(top)))
    return folder / "bin" / "python"


ONE_TASK_THROUGH_PASSENGER = """
import importlib.machinery, importlib.util, json, sys
from werkzeug.test import Client

# As Passenger does: by the path of the file, from a working directory of its own.
loader = importlib.machinery.SourceFileLoader("passenger_wsgi", sys.argv[1])
spec = importlib.util.spec_from_loader("passenger_wsgi", loader)
module = importlib.util.module_from_spec(spec)
loader.exec_module(module)
client = Client(module.application)

def post(path, **body):
    return client.post(path, json=body, headers={"X-API-Key": sys.argv[2]}).json["data"]

post("/api/task-types/register", name="job", version="1", param_schema={"type": "object"})
post("/api/tasks", type="job", params={"n": 1})
task = post("/api/tasks/claim", worker_id="w")
done = post(f"/api/tasks/{task['id']}/complete", worker_id="w", success=True,
            claim_token=task["claim_token"], result=task["params"])
import taskmanager
print(json.dumps([done["status"], done["result"], taskmanager.__file__]))
"""


def test_the_unpacked_release_runs_a_task_with_nothing_but_its_requirements(
    host: Path, tmp_path: Path
) -> None:
    python = make_environment(tmp_path / "environment", host / "requirements.txt")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [
            *(str(python), "-c", ONE_TASK_THROUGH_PASSENGER),
            *(str(host / "passenger_wsgi.py"), ADMIN_KEY),
        ],
        cwd=elsewhere,
        env={"TASKMANAGER_BOOTSTRAP_ADMIN_KEY": ADMIN_KEY, "PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        *("completed", {"n": 1}),
        str(host / "taskmanager" / "__init__.py"),
    ]
    assert (host / "instance" / "taskmanager.db").exists()
    assert list(elsewhere.iterdir()) == []
    assert compare_with_manifest(host) == []


def test_a_whole_upload_differs_nowhere_and_sha256sum_agrees(host: Path) -> None:
    assert compare_with_manifest(host) == []
    check = ["sha256sum", "--check", "--strict", "--quiet", "MANIFEST.sha256"]
    done = subprocess.run(check, cwd=host, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_an_upload_left_broken_is_told_file_by_file(host: Path) -> None:
    package = host / "taskmanager"
    shutil.rmtree(package / "api")
    (package / "clock.py").write_bytes((package / "clock.py").read_bytes()[:100])
    (package / "rates.py").write_bytes(b"")
    (package / "config.py").write_text((package / "config.py").read_text().replace("300", "301"))
    schema = host / "schema.sql"
    schema.write_bytes(schema.read_bytes().replace(b"\n", b"\r\n"))
    (package / "cli.py").write_text("# of an older version")
    (package / "db" / "models.py").unlink()
    (package / "db" / "models.py").mkdir()
    (package / "__pycache__").mkdir(exist_ok=True)
    (package / "__pycache__" / "gone.cpython-311.pyc").touch()

    found = compare_with_manifest(host)

    missing = [path for path, fault in found if fault is Fault.MISSING]
    assert len(missing) > 15
    assert all(path.startswith("taskmanager/api/") for path in missing)
    assert sorted(one for one in found if one.fault is not Fault.MISSING) == [
        Difference("schema.sql", Fault.TEXT_MODE),
        Difference("taskmanager/cli.py", Fault.LEFT_OVER),
        Difference("taskmanager/clock.py", Fault.CUT_SHORT),
        Difference("taskmanager/config.py", Fault.CHANGED),
        Difference("taskmanager/db/models.py", Fault.UNREADABLE),
        Difference("taskmanager/rates.py", Fault.CUT_SHORT),
    ]


def test_an_upload_in_text_mode_is_known_even_from_a_manifest_in_text_mode(host: Path) -> None:
    for path in [path for path in host.rglob("*") if path.is_file()]:
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    faults = {fault for _, fault in compare_with_manifest(host)}
    assert faults == {Fault.TEXT_MODE}


@pytest.mark.parametrize("content", [None, b"", b"\xff<html>not found</html>"])
def test_without_a_usable_manifest_nothing_can_be_said(host: Path, content: bytes | None) -> None:
    (host / "MANIFEST.sha256").unlink()
    if content is not None:
        (host / "MANIFEST.sha256").write_bytes(content)
    with pytest.raises(NoManifest):
        compare_with_manifest(host)
