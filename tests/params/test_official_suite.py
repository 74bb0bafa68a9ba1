"""The official test suite of JSON Schema, which the source package of jsonschema has in it."""

import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from taskmanager.errors import ValidationFailed
from taskmanager.params.limits import ADDRESSES
from taskmanager.params.validation import check_schema, param_problems
from tests.conftest import require

FOLDERS = {4: "draft4", 6: "draft6", 7: "draft7", 2019: "draft2019-09", 2020: "draft2020-12"}
# Formats are asserted, and not all of them are known. The others are what a draft leaves open.
NOT_FOLLOWED = (
    *("format.json", "optional/format/", "optional/format-assertion.json"),
    *("optional/content.json", "optional/dependencies-compatibility.json"),
)
# The rules in docs/schemas.md under which schemas of the suite are refused.
REFUSALS = (
    *("nothing is fetched", "names an anchor", "use $ref with", "is no schema", r"uses \p"),
    "is not a known draft",
)


@pytest.fixture(scope="module")
def suite(pytestconfig: pytest.Config) -> Path:
    name = f"jsonschema-{version('jsonschema')}"
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("json-schema-test-suite")
    archive = folder / f"{name}.tar.gz"
    if not archive.exists():
        what = f"jsonschema=={version('jsonschema')}"
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run(
            [*download, "--no-binary", "jsonschema", what, "-d", str(folder)],
            check=False,
        )
    require("the source package of jsonschema", archive.exists())
    tests = folder / name / "json" / "tests"
    if not tests.exists():
        with tarfile.open(archive) as opened:
            # Not by extractall(): its `filter` is newer than the Python 3.11.2 of Debian 12.
            for member in opened:
                if member.name.startswith(f"{name}/json/tests/") and member.isfile():
                    target = folder / member.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    content = opened.extractfile(member)
                    assert content is not None
                    target.write_bytes(content.read())
    return tests


def cases(folder: Path, draft: int) -> Iterator[tuple[str, Any, Any, bool]]:
    """Name, schema, value and verdict of each test."""
    for path in sorted(folder.rglob("*.json")):
        file = path.relative_to(folder).as_posix()
        if file.startswith(NOT_FOLLOWED):
            continue
        for group in json.loads(path.read_text(encoding="utf-8")):
            schema = group["schema"]
            if isinstance(schema, bool):
                schema = {"allOf": [schema]}
            schema = {"$schema": ADDRESSES[draft], **schema}
            for test in group["tests"]:
                name = f"{file}: {group['description']}: {test['description']}"
                yield name, schema, test["data"], test["valid"]


def verdict(schema: Any, value: Any) -> bool | str:
    try:
        check_schema(schema)
    except ValidationFailed as refused:
        return " ".join(problem["message"] for problem in refused.details or ())
    return not param_problems(json.dumps(schema), value)


@pytest.mark.slow
@pytest.mark.parametrize("draft", list(FOLDERS))
def test_every_verdict_of_the_suite_is_given_but_those_that_are_listed(
    suite: Path, draft: int
) -> None:
    given, wrong, unexplained = 0, [], set()
    for name, schema, value, expected in cases(suite / FOLDERS[draft], draft):
        found = verdict(schema, value)
        if isinstance(found, str):
            if not any(rule in found for rule in REFUSALS):
                unexplained.add(f"{name}: {found}")
        else:
            given += 1
            wrong += [name] if found is not expected else []
    assert (wrong, unexplained) == ([], set())
    assert given > 550
