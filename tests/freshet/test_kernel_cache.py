"""A cache of kernels that cannot be written is used all the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from freshet.kernel_cache import VARIABLE, use_writable_copy


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a compiled kernel in it, named by the variable; temporary folders lie elsewhere."""
    made = tmp_path / "cache"
    (made / "kernels_1").mkdir(parents=True)
    (made / "kernels_1" / "a.nbc").write_bytes(b"code")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv(VARIABLE, str(made))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return made


def test_cache_that_can_be_written_is_left_alone(cache: Path) -> None:
    use_writable_copy()
    assert os.environ[VARIABLE] == str(cache)


@pytest.mark.parametrize("value", ["", "/nowhere/at/all"])
def test_no_cache_is_left_alone(cache: Path, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, value)
    use_writable_copy()
    assert os.environ[VARIABLE] == value


def test_cache_that_cannot_be_written_is_copied_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    use_writable_copy()
    copy = Path(os.environ[VARIABLE])
    assert copy != cache and (copy / "kernels_1" / "a.nbc").read_bytes() == b"code"
    monkeypatch.setenv(VARIABLE, str(cache))
    (copy / "kernels_1" / "b.nbc").write_bytes(b"newer")
    use_writable_copy()
    assert Path(os.environ[VARIABLE]) == copy and (copy / "kernels_1" / "b.nbc").exists()
    assert list(copy.parent.iterdir()) == [copy]


def test_where_no_copy_can_be_made_the_variable_stays(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    monkeypatch.setattr("tempfile.tempdir", str(cache / "kernels_1" / "a.nbc"))
    use_writable_copy()
    assert os.environ[VARIABLE] == str(cache)


@pytest.mark.process
def test_command_does_so_before_numba_is_imported() -> None:
    code = "import sys\nfrom freshet.cli.main import main\nassert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
