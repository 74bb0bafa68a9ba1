"""Patterns of ECMA 262: compared with `re`, and pumped until `re` would hang."""

import re
import subprocess
import sys
from collections.abc import Callable

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskmanager.params.patterns import MAX_STATES, MAX_STEPS_BACK, PatternRefused, translate

# Every pattern is given to this one, and to the other where it has no lookarounds.
COUNTED = jsonschema_rs.FancyRegexOptions(backtrack_limit=MAX_STEPS_BACK)
LINEAR = jsonschema_rs.RegexOptions()


def validators(pattern: str) -> list[jsonschema_rs.Validator]:
    translation = translate(pattern)
    made = [jsonschema_rs.validator_for({"pattern": translation.counted}, pattern_options=COUNTED)]
    if translation.linear is not None:
        schema = {"pattern": translation.linear}
        made.append(jsonschema_rs.validator_for(schema, pattern_options=LINEAR))
    return made


def found(pattern: str, text: str) -> set[bool]:
    return {validator.is_valid(text) for validator in validators(pattern)}


MEANINGS = [
    ("", "", True),
    ("", "abc", True),
    ("b", "abc", True),
    ("^b", "abc", False),
    ("c$", "abc", True),
    ("c$", "abc\n", False),
    ("^$", "", True),
    ("^abc|x$", "abcd", True),
    (".", "\n", False),
    (".", "\u2028", False),
    ("^.$", "\x0b", True),
    ("[^]", "\n", True),
    ("[]", "a", False),
    ("^[a-c]$", "b", True),
    ("^[a-]$", "-", True),
    ("^[-a]$", "-", True),
    (r"^[\w-.]$", "-", True),
    (r"^[\d\-x]$", "-", True),
    (r"^[\b]$", "\b", True),
    (r"^\d$", "٣", False),
    (r"^\w$", "é", False),
    (r"^\W$", "é", True),
    (r"^\s$", "\u00a0", True),
    (r"^\s$", "\ufeff", True),
    (r"^\S$", "\u3000", False),
    (r"^[\s\S]$", "\n", True),
    (r"^\u0041\x42\u{43}$", "ABC", True),
    (r"^\ud83d\ude00$", "😀", True),
    ("^😀{2}$", "😀😀", True),
    (r"^\cJ\t\n\v\f\r\0$", "\n\t\n\x0b\x0c\r\0", True),
    (r"^\/\-\$\.\{\}$", "/-$.{}", True),
    ("^{a}$", "{a}", True),
    ("^a{2}$", "aa", True),
    ("^a{2}$", "aaa", False),
    ("^a{2,}$", "aaaa", True),
    ("^a{1,3}$", "aaaa", False),
    ("^a{0}$", "", True),
    ("^a+?$", "aaa", True),
    ("^(?:ab)+(?<name>c)?$", "abab", True),
    ("^(a|)$", "", True),
    (r"\bfoo\b", "a foo!", True),
    (r"\bfoo\b", "afoo", False),
    (r"\Boo", "foo", True),
    (r"^\B$", "", True),
    ("(?=b)b", "ab", True),
    ("a(?!b)", "ab", False),
    ("a(?!b)", "ac", True),
    ("a(?!b)", "a", True),
    ("(?<=a)b", "ab", True),
    ("(?<!a|b)c", "bc", False),
    ("(?<!a)b", "b", True),
    ("^(?=.*b)(?!.*c)a", "aab", True),
    ("^(?=.*b)(?!.*c)a", "aabc", False),
    ("^(?=ab)", "ab", True),
]


@pytest.mark.parametrize(("pattern", "text", "is_found"), MEANINGS)
def test_a_pattern_means_what_ecma_262_says(pattern: str, text: str, is_found: bool) -> None:
    assert found(pattern, text) == {is_found}


@pytest.mark.parametrize(
    "pattern",
    [
        *("a**", "a{2}{3}", "a++", "*", "+a", "a|*", "(", ")", "a)", "[", "[b-a]", "\\"),
        *(r"\x4", r"\u12", r"\u{110000}", r"\u{}", r"\ud800\u0041", r"\c1"),
        *("a{2,1}", "a{,5}", "(?<>a)", "(?<a", "^*", r"\b+", "(?=a)*"),
        *(r"\1", r"\k<a>", r"\p{L}", r"\A", r"\Z", r"\z", r"\a"),
        *("(?i)a", "(?P<a>b)", "(?>a)", "(?#a)", "a(?=bc)", r"\b(?=bc)", "(?<=ab)c", "((?!ab).)*"),
        *("(" * 51 + ")" * 51, "a{1001}", "(a{100}){100}", "(" * 3 + "){1000}" * 3),
        "a" * (MAX_STATES + 1),
    ],
)
def test_what_has_no_bound_or_ecma_262_does_not_know_is_refused(pattern: str) -> None:
    with pytest.raises(PatternRefused) as refused:
        translate(pattern)
    assert str(refused.value).split()[0].endswith("s")  # "The pattern has …"


@pytest.mark.parametrize(
    ("pattern", "busy"),
    [
        ("^[0-9a-f]{64}$", 1),
        ("^[A-Za-z0-9._-]{1,255}$", 2),
        (r"^\d{4}-\d{2}-\d{2}$", 1),
        ("^(?=.*[A-Z])(?!.*[0-9]).{8,}$", 3),
        ("^a+$(?!x)", 2),
        ("foo|bar", 7),
    ],
)
def test_an_ordinary_pattern_keeps_few_states_busy(pattern: str, busy: int) -> None:
    assert translate(pattern).busy == busy


@pytest.mark.parametrize(
    ("pattern", "least"),
    [
        ("(a|b)*a(a|b){200}c", 400),  # may begin at each character
        ("^(a|b)*a(a|b){200}c", 400),  # what follows the star may
        ("^.{1,100}x.{1,100}$", 200),
        ("(a+){100}", 100),
    ],
)
def test_a_pattern_that_can_keep_many_states_busy_says_so(pattern: str, least: int) -> None:
    assert translate(pattern).busy >= least


@pytest.mark.parametrize("pattern", ["^(?=a)a", "(?<!a)b", "^(?! )"])
def test_lookarounds_need_the_engine_that_counts_its_steps(pattern: str) -> None:
    assert translate(pattern).linear is None


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^a+$(?!x)", "a|b", r"\bfoo\b", r"\Boo"])
def test_all_others_are_for_the_linear_engine(pattern: str) -> None:
    assert translate(pattern).linear is not None


# Patterns as pairs: for this module, and the same for `re`, where they are written differently.
Both = tuple[str, str]
_ATOMS = st.sampled_from(
    [(text, text) for text in ("a", "b", "[ab]", "[^a]", "1", "-", r"\n", r"\d", r"\w", r"\W")]
    + [(".", r"[^\n\r\u2028\u2029]"), ("^", "^"), ("$", r"\Z"), (r"\b", r"\b"), ("(?=a)", "(?=a)")]
    + [("(?!b)", "(?!b)"), ("(?<=a)", "(?<=a)"), ("(?<!b)", "(?<!b)"), ("", ""), ("(?:)", "(?:)")]
)


def _joined(between: str) -> Callable[[list[Both]], Both]:
    return lambda parts: (
        between.join(part[0] for part in parts),
        between.join(part[1] for part in parts),
    )


def _repeated(part_and_count: tuple[Both, str]) -> Both:
    (mine, theirs), count = part_and_count
    return f"(?:{mine}){count}", f"(?:{theirs}){count}"


_COUNTS = st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{2,}", "*?", "{0,1}", "{0}"])
_PATTERNS = st.recursive(
    _ATOMS,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(_joined(""))
        | st.lists(inner, min_size=2, max_size=3)
        .map(_joined("|"))
        .map(lambda both: (f"({both[0]})", f"({both[1]})"))
        | st.tuples(inner, _COUNTS).map(_repeated)
    ),
    max_leaves=6,
)


@settings(max_examples=4 * settings.default.max_examples)
@given(_PATTERNS, st.lists(st.text(alphabet="ab1-\n ", max_size=7), min_size=1, max_size=5))
def test_a_random_pattern_gives_the_answers_of_re(patterns: Both, texts: list[str]) -> None:
    mine, theirs = patterns
    made = validators(mine)
    for text in texts:
        expected = re.search(theirs, text, re.ASCII) is not None
        assert [one.is_valid(text) for one in made] == [expected] * len(made), (mine, text)


PUMP = """
import random, resource
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
from tests.params.test_patterns import validators
choose = random.Random(20)

def make(depth):
    if depth == 0 or choose.random() < 0.2:
        return choose.choice(["a", "b", "[ab]", ".", "ab", "a|b", "", r"\\\\w", r"\\\\b"])
    kind = choose.randrange(3)
    if kind == 0:
        return make(depth - 1) + make(depth - 1)
    if kind == 1:
        return f"({make(depth - 1)}|{make(depth - 1)})"
    return f"(?:{make(depth - 1)}){choose.choice(['*', '+', '?', '{2,3}', '{1,}'])}"

for _ in range(300):
    pattern = choose.choice(["", "^"]) + make(5) + choose.choice(["", "$", "!"])
    made = validators(pattern)
    for word in ("a", "b", "ab", "aab", "a b"):
        for one in made:
            one.is_valid(word * (5_000 // len(word)) + "#")
print("done")
"""


@pytest.mark.timeout(600)
def test_random_patterns_on_pumped_texts_end() -> None:
    """Three hundred nested patterns; for `re` the first few would already take for ever."""
    finished = subprocess.run(
        [sys.executable, "-c", PUMP.replace("\\\\", "\\")],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "done\n", "")
