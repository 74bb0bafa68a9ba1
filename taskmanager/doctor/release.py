"""Checks that the upload is complete: the files against the manifest of the release."""

from collections.abc import Iterator

from taskmanager.doctor.case import Case
from taskmanager.doctor.findings import Finding, listed, not_applicable, ok, problem, warning
from taskmanager.manifest import MANIFEST, Difference, Fault, NoManifest, compare_with_manifest

HTACCESS_CHANGED = Difference(".htaccess", Fault.CHANGED)

UPLOAD = "Upload them again in binary mode, and restart (touch tmp/restart.txt)."
UPLOAD_AS_BINARY = (
    "Set the FTP program to binary mode (FileZilla: Transfer, Transfer type), and upload them "
    "again."
)
DELETE = "Delete them: Python might load one instead of the right file."
DAMAGED = (Fault.CUT_SHORT, Fault.CHANGED, Fault.UNREADABLE)
TEXT_MODE = "changed by an upload in text mode (line endings)"

# What differs from the release: code, level, kinds of difference, how the files are, what to do.
KINDS = (
    ("files_missing", problem, (Fault.MISSING,), "missing", UPLOAD),
    ("files_damaged", problem, DAMAGED, "different from the release", UPLOAD),
    ("files_text_mode", problem, (Fault.TEXT_MODE,), TEXT_MODE, UPLOAD_AS_BINARY),
    ("files_left_over", warning, (Fault.LEFT_OVER,), "not part of this release", DELETE),
)


def check_files(case: Case) -> Iterator[Finding]:
    """Compares every file by its hash. File names are relative to the program's folder."""
    try:
        differences = compare_with_manifest(case.root)
    except NoManifest:
        if (case.root / MANIFEST).exists():
            yield problem(
                f"{MANIFEST} is damaged: it lists no file.",
                "Upload the whole release again in binary mode.",
            )
        else:
            yield not_applicable(
                f"there is no {MANIFEST}, so this is not an uploaded release but a git checkout "
                "or a pip install.",
            )
        return
    if not differences:
        yield ok("Every file matches the manifest of the release.")
    if HTACCESS_CHANGED in differences:
        differences.remove(HTACCESS_CHANGED)
        yield warning(
            ".htaccess differs from the release. Lines that the host has added are harmless.",
            "Check that it still contains the rules of the release, and test them: taskmanager "
            "doctor --url ADDRESS",
            code="htaccess_changed",
        )
    for code, level, kinds, state, remedy in KINDS:
        names = [
            path if len(kinds) == 1 else f"{path} ({kind})"
            for path, kind in differences
            if kind in kinds
        ]
        if names:
            count = "1 file is" if len(names) == 1 else f"{len(names)} files are"
            yield level(f"{count} {state}: {listed(names)}.", remedy, code=code)
