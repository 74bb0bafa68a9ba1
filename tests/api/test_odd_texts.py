"""Texts and numbers that databases and drivers like to change come back as they were sent."""

from tests.conftest import Api

ODD_TEXTS = [
    "💥 ü \u2028 \u200f",
    "quotes \" ' ` and back\\slashes \\\\ \\u0041 \\n",
    "line\nfeed \r\n tab\t \b\f \x01 \x1f \x7f",
    "null true {} [] , :",
    "%s ? %% ??",
    "",
    " spaces at both ends ",
]
ODD_PARAMS = {
    **{f"{number} {text}": text for number, text in enumerate(ODD_TEXTS)},
    "numbers": [0, -1, 2**63 - 1, -(2**63), 0.1, 1e300, 1.0],
    "others": [None, True, False, [], {}],
}


def test_a_claimed_task_is_read_as_it_was_written(api: Api) -> None:
    api.register()
    made = api.create(params=ODD_PARAMS, priority=-7)

    claimed = api.claim()
    api.complete(claimed, result=ODD_PARAMS)
    read = api.get(f"/api/tasks/{made['id']}")

    assert list(claimed["params"].items()) == list(ODD_PARAMS.items())
    assert read["params"] == read["result"] == ODD_PARAMS
    assert (claimed["priority"], claimed["type_version"]) == (-7, "1")
    unchanged = ("id", "type", "created_at", "dedupe_key", "parent_task_id", "max_attempts")
    assert [claimed[name] for name in unchanged] == [made[name] for name in unchanged]


def test_a_worker_of_any_name_reads_its_error_as_it_was_written(api: Api) -> None:
    api.register()
    api.create(max_attempts=1)
    claimed = api.claim(worker_id='w "\\ ü💥')

    api.complete(claimed, success=False, error=ODD_TEXTS[2] + ODD_TEXTS[1], error_code="odd")

    read = api.get(f"/api/tasks/{claimed['id']}")
    assert read["error_message"] == ODD_TEXTS[2] + ODD_TEXTS[1]
    assert (read["error_code"], read["worker_id"]) == ("odd", 'w "\\ ü💥')
