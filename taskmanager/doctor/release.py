"""Checks that the upload is complete: the files against the manifest of the release."""

from collections.abc import Iterator

from taskmanager.doctor.case import Case
from taskmanager.doctor.findings import Finding, listed, not_applicable, ok, problem, warning
from taskmanager.manifest import MANIFEST, Difference, Fault, NoManifest, compare_with_manifest

HTACCESS_CHANGED = Difference(".htaccess", Fault.CHANGED)

UPLOAD = "Upload them again in binary mode, and restart (touch tmp/restart.txt)."

# What differs from the release: code, level, kinds of difference, how the files are, what to do.
KINDS = (
    ("files_missing", problem, (Fault.MISSING,), "missing", UPLOAD),
    (
        "files_damaged",
        problem,
        (Fault.CUT_SHORT, Fault.CHANGED, Fault.UNREADABLE),
        "different from the release",
        UPLOAD,
    ),
    (
        "files_text_mode",
        problem,
        (Fault.TEXT_MODE,),
        "changed by an upload in text mode (line endings)",
        "Set the FTP program to binary mode (FileZilla: Transfer, Transfer type), and upload them "
        "again.",
    ),
    (
        "files_left_over",
        warning,
        (Fault.LEFT_OVER,),
        "not part of this release",
        "Delete them: Python might load one instead of the right file.",
    ),
)


def check_files(case: Case) -> Iterator[Finding]:
    """Compares every file by its hash. File names are relative to the program's folder."""
    try:
        differences = compare_with_manifest(case.root)
    except NoManifest:
        yield _no_manifest(case)
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
            for wanted in kinds
            for path, kind in differences
            if kind is wanted
        ]
        if names:
            count = "1 file is" if len(names) == 1 else f"{len(names)} files are"
            yield level(f"{count} {state}: {listed(names)}.", remedy, code=code)


def _no_manifest(case: Case) -> Finding:
    if (case.root / MANIFEST).exists():
        return problem(
            f"{MANIFEST} is damaged: it lists no file.",
            "Upload the whole release again in binary mode.",
        )
    return not_applicable(
        f"there is no {MANIFEST}, so this is not an uploaded release but a git checkout or a pip "
        "install.",
    )
