"""The default runs without what only other configs need, and a config that needs it says the command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import starting
from paths import ROOT
from starting import environment

from freshet.cli.main import main
from learner.deep import autograd

BLOCKED = ("torch", "plotly", "pandas", "sklearn", "scipy", "pyarrow")
"""What a base install has not, or a default replay of a CSV file has no use for."""

WITHOUT = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)
sys.meta_path.insert(0, Blocker())
from freshet.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
CONFIG = "[features.user]\n[features.item]\n[server]\nport = 0\n"


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("freshet.toml").write_text(CONFIG)
    lines = [f"{i},{i % 13},{i % 7},{int((i % 13 + i % 7) % 3 == 0)}" for i in range(400)]
    Path("c.csv").write_text("\n".join(["time,user,item,label", *lines]))


def copy_without_torch(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this in a copy of a process that has imported much, but not PyTorch."""
    Path("program.py").write_text(code)
    return starting.run(*arguments, program=str(Path("program.py").resolve()), cwd=Path.cwd(), timeout=280.0)


def without(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments],
        capture_output=True, text=True, timeout=280, check=False,
        env=environment(),
    )  # fmt: skip


@pytest.mark.process
def test_default_replay_without_torch_arrives_at_the_same_state() -> None:
    assert main(["replay", "c.csv", "--report", "with.json"]) == 0
    done = without("replay", "c.csv", "--report", "without.json", "--html", "without.html")
    assert done.returncode == 0, done.stderr
    with_torch, without_torch = (json.loads(Path(f"{name}.json").read_text()) for name in ("with", "without"))
    assert with_torch["config"]["learner"]["deep"] == "dcn"
    assert with_torch["state_hash"] == without_torch["state_hash"]
    assert Path("without.html").stat().st_size < 500_000


@pytest.mark.process
@pytest.mark.parametrize(
    "command", ["replay c.csv", "learn", "up", "check"], ids=["replay", "learn", "up", "check"]
)
def test_network_that_needs_torch_says_the_command_that_installs_it(command: str) -> None:
    done = copy_without_torch(WITHOUT, *command.split(), "--set", "learner.deep=deepfm")
    assert done.returncode == (1 if command == "check" else 2), done.stderr
    assert "pip install 'freshet[torch]'" in done.stdout + done.stderr and "Traceback" not in done.stderr


@pytest.mark.process
def test_roles_import_nothing_heavy() -> None:
    modules = "freshet.roles.roles, freshet.roles.up, serving.app.server, serving.replica.replica"
    code = f"import sys, {modules}, learner.role.succession, freshet.replay.replay; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "plotly", "pyarrow", "pandas", "sklearn", "kafka"}


@pytest.mark.process
def test_what_runs_no_kernel_starts_without_the_half_second_that_numba_takes() -> None:
    modules = "freshet.roles.roles, freshet.roles.ingest.role, stream.join.assignment, freshet.tools.produce"
    modules += (
        ", freshet.tools.status, freshet.tools.rights, freshet.tools.dead_letters, freshet.tools.inspect"
    )
    code = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {name.split(".")[0] for name in done.stdout.split()} & {"numba", "llvmlite"}


@pytest.mark.process
def test_modules_of_torch_without_torch_say_the_command_that_installs_it() -> None:
    code = WITHOUT.replace(
        "from freshet.cli.main import main", "import embeddings\nfrom embeddings import Table"
    )
    code = code.replace("sys.exit(main(sys.argv[1:]))", "import embeddings.torch")
    done = copy_without_torch(code)
    assert done.returncode == 1 and "pip install 'freshet[torch]'" in done.stderr.splitlines()[-1]


def test_missing_torch_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autograd, "find_spec", lambda name: None)
    autograd.need_torch("dcn")
    with pytest.raises(autograd.TorchMissingError, match=r"learner.deep = 'dlrm' .*freshet\[torch\]"):
        autograd.need_torch("dlrm")
