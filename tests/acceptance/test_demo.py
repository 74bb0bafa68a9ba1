"""`taskmanager demo` as a person runs it, and its parts where one cannot make them fail by hand."""

import contextlib
import hashlib
import http.client
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from taskmanager.demo import figures, files, producer
from taskmanager.demo.http_client import HttpClient, ServiceError
from taskmanager.demo.processes import ChildProcess, uninterrupted
from taskmanager.demo.progress import Progress


class Demo:
    """One run of the command; everything that it starts can be told by its temporary folder."""

    def __init__(self, folder: Path, place: Path, *options: str, stderr: int = subprocess.PIPE):
        self.place = place
        place.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "taskmanager", "demo", str(folder), *options],
            env={**os.environ, "TMPDIR": str(place)},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def read_until(self, start: str, *, stdout: bool = False) -> str:
        """Reads lines until one begins with `start`; returns that line."""
        for line in (self.process.stdout if stdout else self.process.stderr) or ():
            if line.startswith(start):
                return line
        raise AssertionError(f"it ended without saying {start!r}")

    def wait_for_processes(self, argument: str, count: int) -> list[int]:
        """The ids of its processes with this word in their command line, once there are `count`."""
        deadline = time.monotonic() + 30
        while True:
            found = [pid for pid, line in self.processes().items() if argument in line]
            if len(found) >= count:
                return sorted(found)
            assert time.monotonic() < deadline, self.processes()
            time.sleep(0.05)

    def processes(self) -> dict[int, list[str]]:
        """Id → command line of every process that still runs in its temporary folder."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            # A process may be gone by now, or be a zombie, which has neither.
            with contextlib.suppress(OSError):
                if f"TMPDIR={self.place}\0" in (entry / "environ").read_text(errors="replace"):
                    found[int(entry.name)] = (entry / "cmdline").read_text().split("\0")
        return found

    def end(self) -> tuple[int, str, str]:
        """Exit status, stdout, stderr."""
        stdout, stderr = self.process.communicate(timeout=120)
        return self.process.returncode, stdout, stderr

    def assert_nothing_is_left(self) -> None:
        assert self.processes() == {}
        assert list(self.place.iterdir()) == []


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """Starts the demo; whatever a failed test leaves of it is killed."""
    started: list[Demo] = []

    def start(folder: Path, *options: str, **more: Any) -> Demo:
        started.append(Demo(folder, tmp_path / f"temporary-{len(started)}", *options, **more))
        return started[-1]

    yield start
    for one in started:
        for pid in one.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        one.process.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "files"
    made.mkdir()
    return made


def make_dangling_links(folder: Path, count: int) -> None:
    """Files that nobody can read, not even root. Their retries keep the demo busy for seconds."""
    for number in range(count):
        (folder / f"dangling-{number}").symlink_to("nowhere")


def figure(stdout: str, name: str) -> int:
    found = re.search(rf"^{name}\s+([\d,]+) ", stdout, re.MULTILINE)
    assert found is not None, stdout
    return int(found[1].replace(",", ""))


def test_every_file_is_fingerprinted_and_the_figures_add_up(
    demo: Callable[..., Demo], folder: Path
) -> None:
    for number in range(12):
        (folder / f"file-{number}.txt").write_text("line\n" * number)
    (folder / "sub").mkdir()
    (folder / "sub" / "größte\n.txt").write_bytes(b"\0" * 3_000_000 + b"\n\n")
    (folder / "link-to-sub").symlink_to("sub")
    make_dangling_links(folder, 1)

    run = demo(folder)
    status, stdout, stderr = run.end()

    assert status == 0, stdout + stderr
    assert "14 files under" in stderr
    assert [figure(stdout, name) for name in ("created", "de-duplicated", "completed")] == [
        14,
        14,
        13,
    ]
    assert figure(stdout, "failed") == 1
    assert "permanently; 2 failed attempts retried" in stdout
    assert (
        "dangling-0: The file cannot be read: No such file or directory (3 of 3 attempts)" in stdout
    )
    assert re.search(r"create +[\d.]+ ms +[\d.]+ ms +14 ", stdout)
    assert re.search(r"complete +[\d.]+ ms +[\d.]+ ms +16 ", stdout)
    largest = stdout.partition("path\n")[2].partition("\n\n")[0].splitlines()
    digest = hashlib.sha256(b"\0" * 3_000_000 + b"\n\n").hexdigest()[:12]
    assert largest[0].split() == ["3,000,002", "2", digest, r"sub/größte\n.txt"]
    assert [line.split()[3] for line in largest[1:]] == [
        f"file-{number}.txt" for number in range(11, 2, -1)
    ]
    assert stdout.endswith("Every figure adds up.\n")
    run.assert_nothing_is_left()


def test_empty_folder_is_no_error(demo: Callable[..., Demo], folder: Path) -> None:
    run = demo(folder)
    status, stdout, stderr = run.end()
    assert status == 0, stdout + stderr
    assert figure(stdout, "created") == 0
    assert stdout.endswith("Every figure adds up.\n")
    run.assert_nothing_is_left()


def test_settings_of_the_environment_do_not_reach_into_the_demo(
    demo: Callable[..., Demo], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.db"
    monkeypatch.setenv("TASKMANAGER_DATABASE_URL", f"sqlite:///{other}")
    status, stdout, stderr = demo(folder).end()
    assert status == 0, stdout + stderr
    assert not other.exists()


def test_all_connections_are_closed(
    demo: Callable[..., Demo], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "default::ResourceWarning")
    status, stdout, stderr = demo(folder).end()
    assert status == 0, stdout + stderr
    assert "ResourceWarning" not in stderr


def test_keep_leaves_the_server_up_until_ctrl_c(demo: Callable[..., Demo], folder: Path) -> None:
    (folder / "one.txt").write_text("one")
    run = demo(folder, "--keep")
    url = run.read_until("export URL=", stdout=True).strip().partition("=")[2]
    key = run.read_until("export KEY=", stdout=True).strip().partition("=")[2]
    with urlopen(Request(f"{url}/api/stats", headers={"X-API-Key": key}), timeout=30) as answer:
        assert json.load(answer)["data"]["by_status"]["completed"] == 1

    run.process.send_signal(signal.SIGINT)
    assert run.end()[0] == 0
    with pytest.raises(OSError, match="refused"):
        urlopen(f"{url}/api/health", timeout=30)
    run.assert_nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_in_the_middle_ends_everything(
    demo: Callable[..., Demo], folder: Path, number: signal.Signals
) -> None:
    make_dangling_links(folder, 5)
    run = demo(folder)
    run.wait_for_processes("taskmanager.demo.worker", 2)
    run.process.send_signal(number)
    run.process.send_signal(signal.SIGINT)  # somebody impatient
    status, stdout, stderr = run.end()
    assert (status, stdout) == (130, "")
    assert stderr.endswith(
        "Stopped. The server and the workers have ended, and no files are left.\n"
    )
    run.assert_nothing_is_left()


def test_a_signal_waits_until_a_new_process_is_noted(tmp_path: Path) -> None:
    # A shell without job control starts what runs in the background with SIGINT ignored.
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    noted = []

    @uninterrupted()
    def start() -> None:
        signal.raise_signal(signal.SIGINT)
        noted.append(ChildProcess("child", ["http.server", "0"], tmp_path, {}))

    with pytest.raises(KeyboardInterrupt):
        start()
    signal.signal(signal.SIGINT, usual)
    [child] = noted
    status = Path(f"/proc/{child.process.pid}/status").read_text()
    blocked = re.findall(r"^SigBlk:\s*(\w+)", status, re.M)
    assert [int(mask, 16) for mask in blocked] == [0]  # the child takes every signal
    child.stop()
    assert not child.is_running()


def test_server_that_dies_is_named_and_the_rest_is_stopped(
    demo: Callable[..., Demo], folder: Path
) -> None:
    make_dangling_links(folder, 5)
    run = demo(folder)
    run.wait_for_processes("taskmanager.demo.worker", 2)
    os.kill(run.wait_for_processes("serve", 1)[0], signal.SIGKILL)
    status, stdout, stderr = run.end()
    assert (status, stdout) == (1, "")
    assert "server has ended (signal 9)" in stderr
    assert "Traceback" not in stderr
    run.assert_nothing_is_left()


def test_one_worker_does_it_all_when_the_other_is_killed(
    demo: Callable[..., Demo], folder: Path
) -> None:
    make_dangling_links(folder, 5)
    run = demo(folder)
    os.kill(run.wait_for_processes("taskmanager.demo.worker", 2)[0], signal.SIGKILL)
    status, stdout, stderr = run.end()
    assert "worker-1 has ended (signal 9)" in stderr
    assert status == 0, stdout + stderr
    assert figure(stdout, "failed") == 5
    run.assert_nothing_is_left()


def test_demo_without_workers_says_so_and_fails(demo: Callable[..., Demo], folder: Path) -> None:
    make_dangling_links(folder, 5)
    run = demo(folder)
    for pid in run.wait_for_processes("taskmanager.demo.worker", 2):
        os.kill(pid, signal.SIGKILL)
    status, _, stderr = run.end()
    assert status == 1
    assert "No worker is left" in stderr
    run.assert_nothing_is_left()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_demo_that_was_killed_leaves_no_process(demo: Callable[..., Demo], folder: Path) -> None:
    make_dangling_links(folder, 5)
    run = demo(folder)
    run.wait_for_processes("taskmanager.demo.worker", 2)
    run.process.kill()
    run.end()
    deadline = time.monotonic() + 30
    while run.processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert run.processes() == {}


def test_bar_is_drawn_on_a_terminal(demo: Callable[..., Demo], folder: Path) -> None:
    (folder / "one.txt").write_text("one")
    master, slave = pty.openpty()
    run = demo(folder, stderr=slave)
    os.close(slave)
    status, _, _ = run.end()
    shown = b""
    with open(master, "rb", buffering=0) as terminal, contextlib.suppress(OSError):
        while part := terminal.read(4096):  # EIO where the other side is closed
            shown += part
    assert status == 0
    assert re.search(rb"work +\[#+\] 1 of 1, [\d,]+ tasks/s\r\n", shown)


def test_plain_lines_are_few_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("work", 1_000)
    for done in range(1_000):
        progress.show(done)
    progress.finish()
    assert capsys.readouterr().err.startswith("work: 1,000 of 1,000, ")


def test_what_is_no_file_is_left_out_and_counted(folder: Path) -> None:
    (folder / "good.txt").write_text("x")
    os.mkfifo(folder / "pipe")
    with open(os.fsencode(folder) + b"/bad-\xff.txt", "w"):
        pass
    make_dangling_links(folder, 1)
    (folder / "left-out").mkdir()
    (folder / "left-out" / "file").write_text("x")

    paths, skipped = files.find_files(folder, leave_out={"left-out"})

    assert paths == [str(folder / "dangling-0"), str(folder / "good.txt")]
    assert skipped == {"file whose name is not UTF-8": 1, "pipe, socket or device": 1}


def test_standard_library_is_the_default_without_what_was_installed_beside_it() -> None:
    paths, _ = files.find_files(files.STANDARD_LIBRARY, leave_out=files.NOT_STANDARD_LIBRARY)
    assert str(files.STANDARD_LIBRARY / "os.py") in paths
    assert not any("site-packages" in path for path in paths)


def test_fingerprint_counts_as_other_tools_do_and_calls_back_while_it_reads(folder: Path) -> None:
    content = b"a line\n" * 400_000 + b"no newline at the end"
    (folder / "file").write_bytes(content)
    calls: list[int] = []
    assert files.fingerprint(str(folder / "file"), while_reading=lambda: calls.append(1)) == {
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
        "lines": 400_000,
    }
    assert len(calls) == 3


def test_pipe_in_the_place_of_a_file_is_refused_at_once(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        files.fingerprint(str(folder / "pipe"), while_reading=lambda: None)


@pytest.mark.parametrize(
    ("count", "percent", "expected"),
    [(100, 50, 50.0), (100, 95, 95.0), (1, 95, 1.0), (3, 50, 2.0), (10, 95, 10.0)],
)
def test_percentile_is_the_nearest_rank(count: int, percent: int, expected: float) -> None:
    values = [float(number) for number in range(count, 0, -1)]
    assert figures.percentile(values, percent) == expected


def test_percentile_of_nothing_is_none() -> None:
    assert figures.percentile([], 50) is None


def good_figures() -> figures.Figures:
    report = {"completed": 1, "failed": 0, "retried": 0}
    return figures.Figures(
        folder="/",
        paths={"/a", "/b", "/c"},
        first_pass=figures.Enqueued(created=3),
        second_pass=figures.Enqueued(deduplicated=3),
        reports={"worker-1": report, "worker-2": {**report, "failed": 1}},
        read_back=figures.ReadBack(paths={"/a", "/b", "/c"}, completed=2, failed=1),
        statistics={"completed": 2, "failed": 1, "pending": 0},
        enqueue_seconds=1,
        work_seconds=1,
    )


def spoil_listed_paths(counted: figures.Figures) -> None:
    counted.read_back.paths = {"/a", "/b", "/x"}


def spoil_reports(counted: figures.Figures) -> None:
    counted.reports["worker-1"] = {"completed": 0, "failed": 0, "retried": 0}


WRONG: list[tuple[str, Callable[[figures.Figures], None]]] = [
    ("created: 2, but files: 3.", lambda it: setattr(it.first_pass, "created", 2)),
    (
        "de-duplicated in the first pass: 1, but expected: 0.",
        lambda it: setattr(it.first_pass, "deduplicated", 1),
    ),
    (
        "de-duplicated in the second pass: 2, but files: 3.",
        lambda it: setattr(it.second_pass, "deduplicated", 2),
    ),
    (
        "created in the second pass: 1, but expected: 0.",
        lambda it: setattr(it.second_pass, "created", 1),
    ),
    (
        "completed and failed together: 4, but created: 3.",
        lambda it: setattr(it.read_back, "completed", 3),
    ),
    ("different files as listed: 2, but files: 3.", spoil_listed_paths),
    ("listed files that were never enqueued: 1, but expected: 0.", spoil_listed_paths),
    (
        "completed as listed: 2, but completed by the statistics: 3.",
        lambda it: it.statistics.update(completed=3),
    ),
    (
        "failed as listed: 1, but failed by the statistics: 0.",
        lambda it: it.statistics.update(failed=0),
    ),
    (
        "tasks by the statistics: 4, but created: 3.",
        lambda it: it.statistics.update(pending=1),
    ),
    ("completed as listed: 2, but completed by the workers: 1.", spoil_reports),
    (
        "refused by the service: 1 tasks, the first: too long",
        lambda it: it.first_pass.refused.append("too long"),
    ),
]


@pytest.mark.parametrize(("sentence", "spoil"), WRONG)
def test_figure_that_does_not_add_up_is_named(
    sentence: str, spoil: Callable[[figures.Figures], None]
) -> None:
    counted = good_figures()
    assert figures.problems(counted) == []
    spoil(counted)
    assert sentence in figures.problems(counted)


def test_report_that_died_with_its_worker_is_no_problem() -> None:
    counted = good_figures()
    counted.reports["worker-1"] = None
    assert figures.problems(counted) == []


Handler = Callable[[int], tuple[int, Any] | None]


@pytest.fixture
def serve_answers() -> Iterator[Callable[[Handler], str]]:
    """A server that gives the n-th request the n-th answer: None closes the connection instead."""
    running: list[ThreadingHTTPServer] = []

    def serve(answer: Handler) -> str:
        count = iter(range(1_000))

        class Requests(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                given = answer(next(count))
                if given is None:
                    self.close_connection = True
                    return
                status, body = given
                text = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                if status == 503:
                    self.send_header("Retry-After", "0")
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
        running.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in running:
        server.shutdown()
        server.server_close()


def test_ctrl_c_while_an_answer_is_put_away_is_not_lost(
    serve_answers: Callable[[Handler], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = HttpClient(serve_answers(lambda _: (200, {"data": 1})), "key")

    close = http.client.HTTPResponse.close

    def interrupted(self: http.client.HTTPResponse) -> None:
        close(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(http.client.HTTPResponse, "close", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.call("POST", "/", {})
    client.close()


def test_lost_connection_and_busy_server_are_tried_again(
    serve_answers: Callable[[Handler], str],
) -> None:
    given = [None, (503, {"message": "locked"}), (502, b"<html>"), (200, {"data": 1})]
    http = HttpClient(serve_answers(lambda number: given[number]), "key")
    answer = http.call("POST", "/", {})
    http.close()
    assert (answer.data, answer.repeated) == (1, True)


def test_refused_call_is_not_tried_again_and_says_what_the_service_said(
    serve_answers: Callable[[Handler], str],
) -> None:
    http = HttpClient(serve_answers(lambda _: (403, {"message": "This key may not."})), "key")
    with pytest.raises(ServiceError, match=r"POST /x was rejected: 403 This key may not\."):
        http.call("POST", "/x", {})
    http.close()


def test_call_to_nobody_ends_when_there_is_no_point_in_trying() -> None:
    http = HttpClient("http://127.0.0.1:9", "key", keep_trying=lambda: False)
    with pytest.raises(ServiceError, match="no answer"):
        http.call("GET", "/x")


def test_tasks_made_by_a_call_whose_answer_was_lost_are_counted_as_made(
    serve_answers: Callable[[Handler], str],
) -> None:
    results = [{"outcome": "deduplicated"}, {"outcome": "created"}]
    found = {"created": 1, "deduplicated": 1, "failed": 0, "results": results}
    url = serve_answers(lambda number: None if number == 0 else (201, {"data": found}))
    http = HttpClient(url, "key")
    seen = producer.enqueue(http, ["/a", "/b"], Progress("enqueue", 2), singles=0)
    http.close()
    assert (seen.created, seen.deduplicated, seen.made) == (1, 0, 2)


def test_batches_stay_within_the_limit_of_a_request_body(
    serve_answers: Callable[[Handler], str],
) -> None:
    sizes: list[int] = []

    class Counting(HttpClient):
        def call(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
            sizes.append(len(json.dumps(body)))
            return super().call(method, path, body, **more)

    nothing = {"created": 0, "failed": 0, "results": []}
    http = Counting(serve_answers(lambda _: (201, {"data": nothing})), "key")
    producer.enqueue(http, ["/" + "ü" * 2_000] * 300, Progress("enqueue", 300), singles=0)
    http.close()
    assert len(sizes) > 1
    assert max(sizes) < 1_048_576
