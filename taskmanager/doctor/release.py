"""Whether an upload has brought the release whole: its files against its manifest."""

from collections.abc import Iterator

from taskmanager.doctor.case import Case
from taskmanager.doctor.findings import Finding, listed, not_applicable, ok, problem, warning
from taskmanager.manifest import MANIFEST, Fault, NoManifest, compare_with_manifest

HTACCESS = ".htaccess"

UPLOAD = "Upload these again, in binary mode, and restart (touch tmp/restart.txt)."


def check_files(case: Case) -> Iterator[Finding]:
    """Every file by its hash; files are named relative to the folder of the program."""
    try:
        differences = compare_with_manifest(case.root)
    except NoManifest:
        yield _no_manifest(case)
        return
    by_fault: dict[Fault, list[str]] = {fault: [] for fault in Fault}
    for path, fault in differences:
        if (path, fault) == (HTACCESS, Fault.CHANGED):
            yield _htaccess_changed()
        else:
            by_fault[fault].append(path)
    if missing := by_fault[Fault.MISSING]:
        yield problem(
            "files_missing", f"{_files(missing)} of the release missing: {listed(missing)}.", UPLOAD
        )
    damaged = [
        f"{path} ({fault})"
        for fault in (Fault.CUT_SHORT, Fault.CHANGED, Fault.UNREADABLE)
        for path in by_fault[fault]
    ]
    if damaged:
        yield problem(
            "files_damaged", f"{_files(damaged)} not what was released: {listed(damaged)}.", UPLOAD
        )
    if in_text_mode := by_fault[Fault.TEXT_MODE]:
        yield problem(
            "files_text_mode",
            f"{_files(in_text_mode)} uploaded as text, which has changed the line ends: "
            f"{listed(in_text_mode)}.",
            "Set the FTP program to binary (FileZilla: Transfer, Transfer type), and upload these "
            "again.",
        )
    if left_over := by_fault[Fault.LEFT_OVER]:
        yield warning(
            "files_left_over",
            f"{_files(left_over)} in the package of another version: {listed(left_over)}.",
            "Delete these: Python might load one in the place of another.",
        )
    if not differences:
        yield ok("release_files", "Every file is what the manifest of the release says.")


def _files(names: list[str]) -> str:
    return "1 file is" if len(names) == 1 else f"{len(names)} files are"


def _no_manifest(case: Case) -> Finding:
    if (case.root / MANIFEST).exists():
        return problem(
            "release_files",
            f"{MANIFEST} lists no file: it is damaged itself.",
            "Upload the whole release again, in binary mode.",
        )
    return not_applicable(
        "release_files",
        f"there is no {MANIFEST}, so this is no uploaded release (a git checkout, or pip has "
        "installed it).",
    )


def _htaccess_changed() -> Finding:
    return warning(
        "htaccess_changed",
        ".htaccess is not the one of the release. Hosts add lines of their own, which is no harm.",
        "See that the rules of the release are still in it, and test them: taskmanager doctor "
        "--url ADDRESS",
    )
