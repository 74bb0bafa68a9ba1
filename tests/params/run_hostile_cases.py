"""Goes through the hostile cases with the services alone, in a process that may do nothing else.

Run as a program it prints what came out wrong, one line each. The process may
use two minutes of CPU and a gigabyte of memory in all; once the parts are
loaded it is stopped at the first file it opens, socket it makes or program it
starts.
"""

import json
import resource
import sys
from typing import Any

from taskmanager.errors import ValidationFailed
from taskmanager.params.limits import DRAFTS
from taskmanager.params.schemas import meta_validator
from taskmanager.params.validation import check_schema, param_problems
from tests.params.hostile_cases import CASES, INVALID, REFUSED, STOPPED, VALID

CPU_SECONDS = 120
MEMORY_BYTES = 1 << 30
FORBIDDEN = ("open", "socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "urllib.")


def verdict(schema: Any, params: Any) -> str:
    try:
        check_schema(schema)
    except ValidationFailed:
        return REFUSED
    problems = param_problems(json.dumps(schema), params)
    if not problems:
        return VALID
    return STOPPED if problems[-1]["message"].startswith("cannot be checked") else INVALID


def refuse_the_outside(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(FORBIDDEN):
        sys.stderr.write(f"{event} {arguments}\n")
        raise PermissionError(event)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for draft in DRAFTS.values():
        meta_validator(draft)
    sys.addaudithook(refuse_the_outside)
    for case in CASES:
        found = verdict(case.schema, case.params)
        if found != case.expected:
            print(f"{case.name}: {found} instead of {case.expected}")
    print(f"{len(CASES)} cases")


if __name__ == "__main__":
    main()
