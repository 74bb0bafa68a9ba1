"""Checks that the upload is complete: the files against the manifest of the release."""

from collections.abc import Iterator

from taskmanager.doctor.case import Case
from taskmanager.doctor.findings import Finding, listed, not_applicable, ok, problem, warning
from taskmanager.manifest import MANIFEST, Fault, NoManifest, compare_with_manifest

HTACCESS = ".htaccess"

UPLOAD = "Upload them again in binary mode, and restart (touch tmp/restart.txt)."


def check_files(case: Case) -> Iterator[Finding]:
    """Compares every file by its hash. File names are relative to the program's folder."""
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
        yield problem("files_missing", f"{_files(missing)} missing: {listed(missing)}.", UPLOAD)
    damaged = [
        f"{path} ({fault})"
        for fault in (Fault.CUT_SHORT, Fault.CHANGED, Fault.UNREADABLE)
        for path in by_fault[fault]
    ]
    if damaged:
        yield problem(
            "files_damaged",
            f"{_files(damaged)} different from the release: {listed(damaged)}.",
            UPLOAD,
        )
    if in_text_mode := by_fault[Fault.TEXT_MODE]:
        yield problem(
            "files_text_mode",
            f"{_files(in_text_mode)} changed by an upload in text mode (line endings): "
            f"{listed(in_text_mode)}.",
            "Set the FTP program to binary mode (FileZilla: Transfer, Transfer type), and upload "
            "them again.",
        )
    if left_over := by_fault[Fault.LEFT_OVER]:
        yield warning(
            "files_left_over",
            f"{_files(left_over)} not part of this release: {listed(left_over)}.",
            "Delete them: Python might load one instead of the right file.",
        )
    if not differences:
        yield ok("release_files", "Every file matches the manifest of the release.")


def _files(names: list[str]) -> str:
    return "1 file is" if len(names) == 1 else f"{len(names)} files are"


def _no_manifest(case: Case) -> Finding:
    if (case.root / MANIFEST).exists():
        return problem(
            "release_files",
            f"{MANIFEST} is damaged: it lists no file.",
            "Upload the whole release again in binary mode.",
        )
    return not_applicable(
        "release_files",
        f"there is no {MANIFEST}, so this is not an uploaded release but a git checkout or a pip "
        "install.",
    )


def _htaccess_changed() -> Finding:
    return warning(
        "htaccess_changed",
        ".htaccess differs from the release. Lines that the host has added are harmless.",
        "Check that it still contains the rules of the release, and test them: taskmanager doctor "
        "--url ADDRESS",
    )
