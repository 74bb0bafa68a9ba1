"""Patterns over task-type names, against a naive reference."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taskmanager.access.caller import OPERATOR, matches


def reference(pattern: str, name: str) -> bool:
    """The same as a regular expression: slow on many wildcards, but plainly right."""
    expression = ".*".join(re.escape(part) for part in pattern.split("%"))
    return re.fullmatch(expression, name, re.DOTALL) is not None


@settings(max_examples=5 * settings.default.max_examples)
@given(st.text("aAb._%\\", max_size=8), st.text("aAb._\\", max_size=10))
@example("a%a", "a")
@example("ab%ba", "aba")
@example("%", "")
@example("", "")
def test_a_pattern_means_what_the_reference_says(pattern: str, name: str) -> None:
    assert matches(pattern, name) is reference(pattern, name)


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("PrismQ.%", "PrismQ.Script.Generate", True),
        ("PrismQ.%", "PrismQ", False),
        ("PrismQ.%", "prismq.Script", False),
        ("%.Generate", "PrismQ.Script.Generate", True),
        ("a_c", "abc", False),
        ("a_c", "a_c", True),
        ("a.c", "abc", False),
        ("a\\%c", "a%c", False),
        ("%%", "anything", True),
    ],
)
def test_only_the_percent_sign_is_special(pattern: str, name: str, fits: bool) -> None:
    assert matches(pattern, name) is fits


def test_a_pattern_of_many_wildcards_does_not_take_for_ever() -> None:
    assert matches("%a" * 100 + "%", "a" * 99 + "b" * 156) is False


def test_one_of_several_patterns_is_enough() -> None:
    caller = OPERATOR._replace(task_types=("x.%", "y"))
    assert caller.may_touch("y")
    assert not caller.may_touch("y.z")
    assert not caller._replace(task_types=()).may_touch("y")
