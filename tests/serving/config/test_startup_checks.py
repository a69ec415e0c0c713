"""The data directory as a service finds it, and as it leaves it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from zoetrope.serving.config.settings import Settings
from zoetrope.serving.config.startup_checks import StartError, make_directory


@pytest.mark.parametrize(
    ("files", "before", "after"),
    [
        (None, None, 0o700),
        ([], 0o755, 0o700),
        (["jobs.db", "artifacts"], 0o755, 0o700),
        (["lock"], 0o2750, 0o700),
        (["lock"], 0o500, 0o500),
        (["somebody's.txt"], 0o755, 0o755),
    ],
    ids=["none", "empty", "ours", "ours, for a group", "ours, closed further", "not made for us"],
)
def test_a_data_directory_is_closed_to_others(
    files: list[str] | None, before: int | None, after: int, tmp_path: Path
) -> None:
    directory = tmp_path / "a" / "data"
    if files is not None and before is not None:
        directory.mkdir(parents=True)
        for name in files:
            (directory / name).touch()
        directory.chmod(before)
    make_directory(Settings(data_dir=directory))
    assert stat.S_IMODE(directory.stat().st_mode) == after


def test_a_data_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=r"^data-dir: .*/file/data cannot be created: Not a directory$"):
        make_directory(Settings(data_dir=tmp_path / "file" / "data"))
