"""docs/security.md against the program."""

import configparser
import re
from pathlib import Path

from taskmanager.access import audit, keys
from taskmanager.api.rate_limits import FAILURES, WITHOUT_KEY

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
WORDS = " ".join(TEXT.split())


def test_every_dependency_is_listed_with_its_reason_and_no_other() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    required = re.findall(r"^[\w-]+", setup["options"]["install_requires"], re.MULTILINE)
    listed = re.findall(r"^\| `([\w-]+)` \| \S.+ \|$", TEXT, re.MULTILINE)
    assert listed == required


def test_the_figures_are_those_of_the_program() -> None:
    assert f"limited to {FAILURES.amount} a {FAILURES.unit} per address" in WORDS
    assert f"requests without a key to {WITHOUT_KEY.amount}" in WORDS
    assert f"the newest {audit.MAX_FAILURE_ROWS:,} are kept" in WORDS
    assert f"at most about {2 * audit.ADDRESSES_PER_WINDOW} rows a minute" in WORDS
    assert keys.CACHE_SECONDS < 5
    assert "within 5 seconds" in WORDS


def test_settings_that_are_named_exist() -> None:
    from taskmanager.config import setting_names

    named = set(re.findall(r"TASKMANAGER_\w+", TEXT))
    assert named
    assert named <= set(setting_names())
