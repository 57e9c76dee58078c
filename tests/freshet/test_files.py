"""Files that commands write: checked before long work starts, and left alone until the result is there."""

from pathlib import Path

import pytest

from freshet.errors import ReplayError
from freshet.files import check_writable


def test_check_leaves_nothing_and_removes_nothing(tmp_path: Path) -> None:
    there = tmp_path / "there.json"
    there.write_text("kept")
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "not yet.json")  # made and removed again, the link would go
    for path in (there, link, tmp_path / "new.json", tmp_path / "folder" / "new.json"):
        check_writable(path, ReplayError)
    assert there.read_text() == "kept" and link.is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "link.json", "there.json"]
    assert not list((tmp_path / "folder").iterdir())


def test_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="cannot be written"):
        check_writable(tmp_path, ReplayError)
    (tmp_path / "file").write_text("")
    with pytest.raises(ReplayError, match="cannot be written"):
        check_writable(tmp_path / "file" / "r.json", ReplayError)
