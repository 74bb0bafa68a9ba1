"""Checks that the program can run: the Python version, the libraries, its own modules."""

import importlib
import importlib.metadata
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator
from importlib.abc import InspectLoader
from pathlib import Path
from typing import Any

from taskmanager.doctor.case import Case
from taskmanager.doctor.findings import Finding, listed, numbers_of, ok, problem, warning

OLDEST_PYTHON = (3, 11)
WITHOUT_IMP = (3, 12)

# Where Debian, Red Hat and cPanel install the script with which Passenger loads a Python program.
PASSENGER_LOADERS = (
    "usr/share/passenger/helper-scripts/wsgi-loader.py",
    "opt/cpanel/ea-ruby*/root/usr/share/passenger/helper-scripts/wsgi-loader.py",
    "opt/cpanel/ea-passenger*/root/usr/share/passenger/helper-scripts/wsgi-loader.py",
)
PARTS = (("taskmanager.app", "create_app"), ("taskmanager.cli", "main"))
# Imported when they are first used.
LATER_PARTS = (
    "taskmanager.api.openapi.document",
    "taskmanager.db.mysql.engine",
    "taskmanager.serving.server",
)
_NO_SUCH_NAME = re.compile(r"cannot import name '(\w+)' from ")
_IMPORTS_IMP = re.compile(r"^\s*import\b.*\bimp\b", re.MULTILINE)
_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)\s*([<>=!~0-9.,\s]*)$")


def check_python(case: Case) -> Finding:
    """The Python version, and whether the Passenger of this host can load it."""
    return judge_python(sys.version_info[:3], old_loader_below(Path("/")))


def judge_python(version: tuple[int, ...], old_loader: bool | None) -> Finding:
    """`old_loader`: whether Passenger needs the module imp; None if there is no Passenger."""
    name = "Python " + ".".join(map(str, version))
    if version[:2] < OLDEST_PYTHON:
        return problem(
            f"{name} is too old for TaskManager.",
            "Use Python 3.11 or newer. On cPanel choose it in 'Setup Python App'; elsewhere create "
            "the virtual environment with it.",
        )
    if version[:2] < WITHOUT_IMP:
        return ok(f"{name}.")
    if old_loader:
        return warning(
            f"{name}, but the Passenger of this host needs the module imp, which Python 3.12 "
            "removed.",
            "If Passenger serves the program, use Python 3.11, or a Passenger newer than 6.0.18.",
        )
    return ok(
        f"{name}. If Passenger serves the program, it must be newer than 6.0.18 to load this "
        "Python."
    )


def old_loader_below(root: Path) -> bool | None:
    """Whether a Passenger below `root` needs the module imp; None if there is no Passenger."""
    found = [path for pattern in PASSENGER_LOADERS for path in sorted(root.glob(pattern))]
    if not found:
        return None
    return any(_IMPORTS_IMP.search(path.read_text(errors="replace")) for path in found)


def check_libraries(case: Case) -> Iterator[Finding]:
    """The installed libraries against requirements.txt, or else the package's metadata."""
    required = _requirements(case.root)
    missing, old, new = [], [], []
    for name, specifiers in required:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        for operator, bound in specifiers:
            is_older = numbers_of(version) < numbers_of(bound)
            if operator == ">=" and is_older:
                old.append(f"{name} {version} (at least {bound})")
            elif operator == "<" and not is_older:
                new.append(f"{name} {version} (below {bound})")
    install = "Install the requirements: python -m pip install -r requirements.txt"
    if not required:
        yield ok("Not applicable: there is no list of the required libraries.")
    if missing:
        yield problem(f"Not installed: {listed(missing)}.", install)
    if old:
        yield problem(f"Too old: {listed(old)}.", install)
    if new:
        yield warning(f"Newer than the tested versions: {listed(new)}.", install)
    if required and not missing + old + new:
        yield ok(f"All {len(required)} libraries are installed in supported versions.")


def _requirements(root: Path) -> list[tuple[str, list[tuple[str, str]]]]:
    """Each required library with its bounds."""
    path = root / "requirements.txt"
    if path.exists():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    else:
        try:
            lines = importlib.metadata.requires("taskmanager") or []
        except importlib.metadata.PackageNotFoundError:
            lines = []
    found = [match for line in lines if (match := _REQUIREMENT.match(line.strip()))]
    return [(one[1], re.findall(r"(>=|<)\s*([0-9.]+)", one[2])) for one in found]


def check_loading(case: Case) -> Finding:
    """Imports the application, the command line and what they import later.

    A process that serves would keep all of it in memory: there, what is not loaded is only read.
    """
    what = "The program"
    load = importlib.import_module if case.call is None else _read
    try:
        for module, name in PARTS:
            part = load(module)
            if case.call is None:
                getattr(part, name)
        what = "A part of the program"
        for module in LATER_PARTS:
            load(module)
    except Exception as error:  # noqa: BLE001 - a damaged file may raise anything
        missing = _missing_module(error)
        if missing and missing.partition(".")[0] != "taskmanager":
            return problem(
                f"{what} does not start: the module {missing} is missing.",
                "Install the requirements with the Python that serves the program: "
                "python -m pip install -r requirements.txt",
            )
        fault = f"{missing} is missing" if missing else f"{_where(error)}{type(error).__name__}"
        return problem(
            f"{what} does not start: {fault}.",
            "Upload the whole release again, in binary mode.",
        )
    if case.call is not None:
        return ok("The program runs, and what it loads later is there.")
    return ok("The whole program can be imported.")


def _read(module: str) -> Any:
    """A module if it is loaded, else its code, which is not run. Raises as its import does."""
    if module in sys.modules:
        return sys.modules[module]
    spec = importlib.util.find_spec(module)
    if spec is None or not isinstance(spec.loader, InspectLoader):
        raise ModuleNotFoundError(f"No module named '{module}'", name=module)
    return spec.loader.get_code(module)


def _missing_module(error: Exception) -> str | None:
    """What is not there. `from package import module` raises no ModuleNotFoundError."""
    if isinstance(error, ModuleNotFoundError):
        return error.name
    if not isinstance(error, ImportError):
        return None
    wanted = _NO_SUCH_NAME.match(str(error))
    return f"{error.name}.{wanted[1]}" if wanted else None


def _where(error: Exception) -> str:
    """`in FILE, ` for the file of the package in which the error occurred, else empty."""
    names = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        names.append(error.filename or "")
    package = Path(__file__).resolve().parent.parent
    ours = [Path(name) for name in names if Path(name).is_relative_to(package)]
    return f"in {ours[-1].relative_to(package.parent).as_posix()}, " if ours else ""
