"""What Apache must not serve, asked for by name and by trick, wherever the app lies."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.support.releases.current import ROOT
from tests.support.shared_host import LAYOUTS, Site

# What is in the release, what the app makes, and what people leave lying about.
LEFT_LYING = {
    **dict.fromkeys((".env.bak", ".env~", ".env.swp", ".git/config"), b"LEFT-LYING"),
    **dict.fromkeys(("debug.log", "stderr.log", "start-error.log", "index.html"), b"LEFT-LYING"),
    **dict.fromkeys(("backup.zip", "dump.sql.gz", "queue.jsonl.gz"), b"LEFT-LYING"),
    **dict.fromkeys(("docs/index.html", "instance/requests.counters"), b"LEFT-LYING"),
}
PRIVATE = [
    *(".env", ".env.example", ".htaccess", "MANIFEST.sha256", "passenger_wsgi.py"),
    *("requirements.txt", "schema.sql", "setup.cfg", "pyproject.toml", "README.md", "docs/api.md"),
    *("taskmanager/app.py", "taskmanager/config.py", "taskmanager/api/docs.html"),
    *("instance/taskmanager.db", "instance/taskmanager.db-wal", "instance/taskmanager.db-shm"),
    *("tmp/restart.txt", *LEFT_LYING),
]
TRICKS = [
    *("%2eenv", ".%65nv", "%2e%65%6e%76", ".env%00", ".env%00.html", ".env%20", ".env."),
    *(".ENV", ".Env", "SCHEMA.SQL", "Passenger_wsgi.PY", ".env;x", ".env?x=1", ".env/", ".env/x"),
    *("/.env", "//.env", "./.env", "x/../.env", "taskmanager/../.env", "taskmanager//app.py"),
    *("static/../.env", "static/%2e%2e/.env", "static/..%2f.env", "static%2f..%2f.env"),
    *(".well-known/../.env", ".well-known/%2e%2e/.env", ".well-known/..%2f.env"),
    *("taskmanager%2fapp.py", "taskmanager/%61pp.py", "taskmanager\\app.py", "schema%2esql"),
    *("passenger_wsgi.py/api/health", "schema.sql/", "api/../.env", "api/%2e%2e/schema.sql"),
    *("..%2f.env", "%252eenv", "instance/", "taskmanager/", "docs/", "tmp/", ".git/", ""),
]
# Words that stand in these files and in no answer.
SECRETS = [b"LEFT-LYING", b"TASKMANAGER_", b"CREATE TABLE", b"import ", b"SQLite format", b"mysql:"]
SECRETS += [b"PassengerAppRoot", b"flask", b"Index of", b"sha256", b"# "]


@contextlib.contextmanager
def files_left_lying(site: Site) -> Iterator[None]:
    site.upload(LEFT_LYING)
    yield
    for path in LEFT_LYING:
        # A start that succeeds removes the report of one that failed by itself.
        (site.app_root / path).unlink(missing_ok=True)


def addresses(site: Site) -> list[str]:
    """Each file at the app's address and, below a domain's root, where its folder would be."""
    paths = PRIVATE + TRICKS
    if site.layout.is_inside or site.prefix:
        return [f"/{path}" for path in paths]
    return [f"/{path}" for path in paths] + [f"/{site.layout.app_root}/{path}" for path in paths]


def served_files(site: Site) -> list[tuple[str, int, bytes]]:
    """What came of all the attempts, where it was more than a refusal."""
    served = []
    with files_left_lying(site):
        for address in addresses(site):
            reply = site.request("GET", address)
            if reply.status < 400 or any(secret in reply.content for secret in SECRETS):
                served.append((address, reply.status, reply.content[:80]))
    return served


def test_no_file_of_the_app_is_served_under_any_spelling(site: Site) -> None:
    assert served_files(site) == []


def test_the_files_that_were_asked_for_are_there(site: Site) -> None:
    with files_left_lying(site):
        missing = {path for path in PRIVATE if not (site.app_root / path).exists()}
    missing.discard("start-error.log")  # Passenger may have started a process meanwhile
    databases = {f"instance/taskmanager.db{end}" for end in ("", "-wal", "-shm")}
    assert missing == (databases if site.layout.uses_mysql else set())


def check_a_task_type_may_be_named_like_a_file(site: Site) -> None:
    for name in ("schema.sql", ".env", "passenger_wsgi.py", ".htaccess", "taskmanager.db"):
        body = {"name": name, "version": "1", "param_schema": {"type": "object"}}
        assert site.call("POST", "/api/task-types/register", body).status in (200, 201)
        reply = site.call("GET", f"/api/task-types/{name}")
        assert (reply.status, reply.data["name"]) == (200, name)


def test_a_task_type_may_be_named_like_a_file(site: Site) -> None:
    check_a_task_type_may_be_named_like_a_file(site)


inside = pytest.mark.parametrize(
    "site", [layout for layout in LAYOUTS if layout.is_inside], indirect=True, ids=str
)


@inside
def test_proofs_of_the_domain_for_its_certificate_are_served(site: Site) -> None:
    site.upload({".well-known/acme-challenge/t0ken": b"the proof"})
    reply = site.request("GET", "/.well-known/acme-challenge/t0ken")
    assert (reply.status, reply.content) == (200, b"the proof")


@inside
def test_without_the_panels_block_no_file_is_served_either(site: Site) -> None:
    """As after an upload that has overwritten it, until the panel writes it anew."""
    path = site.app_root / ".htaccess"
    with_block = path.read_text()
    path.write_text((ROOT / ".htaccess").read_text())
    try:
        assert site.call("GET", "/api/health").status == 404
        # The names in the topmost folder are told, or its index.html is shown: nothing else.
        assert {address for address, _, _ in served_files(site)} <= {"/", "//"}
    finally:
        path.write_text(with_block)
    assert site.call("GET", "/api/health").status == 200


@inside
def test_a_host_without_mod_rewrite_serves_no_file_and_every_route(site: Site) -> None:
    with site.another_apache(without=["rewrite"]):
        assert site.request("GET", "/.env").status == 403
        # Folders that have an index.html show it: nothing else.
        assert {address for address, _, _ in served_files(site)} <= {"/", "//", "/docs/"}
        check_a_task_type_may_be_named_like_a_file(site)
        site.upload({".well-known/acme-challenge/t0ken": b"the proof"})
        assert site.request("GET", "/.well-known/acme-challenge/t0ken").content == b"the proof"
