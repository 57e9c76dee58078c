"""The image, built from the Dockerfile and run as the compose file says, without a Docker daemon.

As root, with mmdebstrap and buildah to build it and runc to run it; minutes. FRESHET_IMAGE names an image
that buildah has already, which is then not built.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
IMAGE = os.environ.get("FRESHET_IMAGE", "localhost/freshet")
BYTES_MAX = 1_200_000_000
READY_S_MAX = 120.0
ANSWER_S_MAX = 60.0  # on a busy machine
KERNELS = "import pathlib; print(*sorted(path.name for path in pathlib.Path('/tmp').rglob('*.nbc')))"
MEMORY = "import re; print(re.search(r'VmRSS:\\s+(\\d+)', open('/proc/1/status').read())[1])"
UID = 10001

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


def run(*command: str | Path, **more: Any) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image() -> dict[str, Any]:
    """What the built image says of itself."""
    missing = [tool for tool in ("mmdebstrap", "buildah", "runc") if shutil.which(tool) is None]
    if missing or os.getuid() != 0:
        pytest.skip(f"NO IMAGE: needs root, and {', '.join(missing) or 'nothing else'}")
    if "FRESHET_IMAGE" not in os.environ:
        print(run(DEPLOY / "image.sh", IMAGE))
    inspected = json.loads(run("buildah", "inspect", "--type", "image", IMAGE))
    docker: dict[str, Any] = inspected["Docker"]
    return docker


@pytest.fixture(scope="module")
def rootfs(image: dict[str, Any]) -> Iterator[Path]:
    """The image's files, mounted."""
    container = run("buildah", "from", "--pull=never", IMAGE)
    yield Path(run("buildah", "mount", container))
    run("buildah", "rm", container)


def bytes_of(folder: Path) -> int:
    return int(run("du", "--summarize", "--bytes", "--one-file-system", folder).split()[0])


def test_image_is_small_and_runs_as_nobody_in_particular(image: dict[str, Any], rootfs: Path) -> None:
    size = bytes_of(rootfs)
    print(f"{size / 1e6:,.0f} MB")
    assert size < BYTES_MAX
    assert image["config"]["User"] == f"{UID}:{UID}"
    kernels = list((rootfs / "var/cache/freshet").rglob("*.nbc"))
    assert len(kernels) > 50, "kernels are compiled when the image is built"


class Service:
    """A service of the compose file as a container: its own user, no rights, nothing writable but its volume.

    Of the network it has the machine's, since loopback is all that is there.
    """

    def __init__(
        self, name: str, folder: Path, rootfs: Path, image: dict[str, Any], volume: Path, tokens: str
    ) -> None:
        service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"][name]
        config = image["config"]
        self._id = f"freshet-{name}-{os.getpid()}"
        folder.mkdir()
        run("runc", "spec", cwd=folder)
        spec = json.loads((folder / "config.json").read_text())
        binds = {volume: "/data", DEPLOY / "freshet.toml": "/etc/freshet/freshet.toml"}
        given = {**dict(e.partition("=")[::2] for e in config["Env"]), "HOME": "/data"}
        if "environment" in service:
            given["FRESHET_TOKENS"] = tokens
        spec["process"] |= {
            "terminal": False,
            "user": {"uid": UID, "gid": UID},
            "args": [*config["Entrypoint"], *service["command"]],
            "env": [f"{key}={value}" for key, value in given.items()],
            "cwd": config["WorkingDir"],
            "capabilities": {},
            "noNewPrivileges": True,
        }
        spec["root"] = {"path": str(rootfs), "readonly": True}
        spec["mounts"] += [
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev"]},
            *(
                {
                    "destination": inside,
                    "type": "bind",
                    "source": str(outside),
                    "options": ["rbind", "rw" if outside == volume else "ro"],
                }
                for outside, inside in binds.items()
            ),
        ]
        spec["linux"]["namespaces"] = [
            space for space in spec["linux"]["namespaces"] if space["type"] not in ("network", "cgroup")
        ]
        (folder / "config.json").write_text(json.dumps(spec))
        self._said = folder / "said.txt"
        with self._said.open("wb") as out:
            self._process = subprocess.Popen(
                ["runc", "run", "--bundle", str(folder), self._id],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    @property
    def said(self) -> str:
        return self._said.read_text(errors="replace")

    @property
    def ready(self) -> bool:
        return ": ready" in self.said

    def check(self, command: list[str]) -> int:
        """Run a command in the container; its exit status."""
        return subprocess.run(
            ["runc", "exec", self._id, *command], capture_output=True, check=False
        ).returncode

    def ask(self, program: str) -> str:
        """What a Python program prints in the container."""
        return run("runc", "exec", self._id, "python", "-c", program)

    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> int:
        """Stop it as compose does; its exit status."""
        began = time.monotonic()
        subprocess.run(["runc", "kill", self._id, "TERM"], capture_output=True, check=False)
        try:
            return self._process.wait(timeout=60)
        finally:
            print(f"{self._id} stopped after {time.monotonic() - began:.2f} s")
            subprocess.run(["runc", "delete", "--force", self._id], capture_output=True, check=False)


def test_services_of_the_compose_file_answer(image: dict[str, Any], rootfs: Path, tmp_path: Path) -> None:
    volume = tmp_path / "data"
    volume.mkdir()
    os.chown(volume, UID, UID)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    token = secrets.token_hex(16)
    services: dict[str, Service] = {}
    try:
        for name in ("join", "learn", "serve"):
            services[name] = Service(
                name, tmp_path / name, rootfs, image, volume, f"shop score+write {token}"
            )
        health = image["config"]["Healthcheck"]["Test"]
        assert health[0] == "CMD"
        began = time.monotonic()
        deadline = began + READY_S_MAX
        while services["serve"].check(health[1:]) != 0 or not all(s.ready for s in services.values()):
            assert all(s.running() for s in services.values()) and time.monotonic() < deadline, "\n".join(
                f"{name}: {service.said}" for name, service in services.items()
            )
            time.sleep(0.5)
        print(f"ready after {time.monotonic() - began:.2f} s")
        assert "compiling" not in "".join(s.said for s in services.values())
        shop = httpx.Client(
            base_url="http://127.0.0.1:8470",
            headers={"Authorization": f"Bearer {token}"},
            timeout=ANSWER_S_MAX,
            trust_env=False,
        )
        compiled = {path.name for path in (rootfs / "var/cache/freshet").rglob("*.nbc")}
        with shop:
            request = {"context": {"user": "ann"}, "candidates": [{"item": 1}, {"item": 2}]}
            began = time.monotonic()
            answer = shop.post("/v1/score", json=request).raise_for_status().json()
            print(f"first score after {time.monotonic() - began:.2f} s")
            assert len(answer["corrected"]) == 2
            said = {"request_id": answer["request_id"], "candidate": 0}
            shop.post("/v1/feedback", json=said).raise_for_status()
            assert (
                httpx.post("http://127.0.0.1:8470/v1/score", json=request, trust_env=False).status_code == 401
            )
            event = {"type": "impression", "request_id": "r", "time": time.time(), "labels": [1, 0]} | request
            shop.post("/v1/events", json=event).raise_for_status()
            while shop.get("/v1/model").raise_for_status().json()["examples_learnt"] < 2:
                assert time.monotonic() < deadline, services["learn"].said
                time.sleep(0.2)
            sizes = re.search(r"(\d+), (\d+) and (\d+) MB of memory", (ROOT / "README.md").read_text())
            assert sizes is not None
            for megabytes, (name, service) in zip(sizes.groups(), services.items(), strict=True):
                held = int(service.ask(MEMORY)) / 1000.0
                print(f"{name} holds {held:.0f} MB")
                assert 0.7 * int(megabytes) < held < 1.3 * int(megabytes), f"README says {megabytes} MB"
                assert set(service.ask(KERNELS).split()) == compiled, f"{name} compiled what the image lacks"
    finally:
        codes = {name: service.stop() for name, service in services.items()}
    assert codes == dict.fromkeys(services, 0), "\n".join(s.said for s in services.values())
