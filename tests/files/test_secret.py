"""The secret in a file: created once, read by everybody, seen by nobody else."""

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from taskmanager.files.secret import read_or_create_secret


def test_a_secret_is_created_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "secret_key"
    secret = read_or_create_secret(path)
    assert len(secret) == 43
    assert read_or_create_secret(path) == secret
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["secret_key"]


def test_processes_that_start_at_once_read_the_same_secret(tmp_path: Path) -> None:
    with ProcessPoolExecutor(8) as processes:
        secrets = set(processes.map(read_or_create_secret, [tmp_path / "secret_key"] * 40))
    assert len(secrets) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["secret_key"]


def test_where_there_are_no_hard_links_a_secret_is_created_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "secret_key"
    assert read_or_create_secret(path) == read_or_create_secret(path)
    assert [one.name for one in tmp_path.iterdir()] == ["secret_key"]
