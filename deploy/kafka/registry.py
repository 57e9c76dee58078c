"""A real schema registry on this machine, for tests and for trying things out: Apicurio, in memory.

    python3 deploy/kafka/registry.py       # at 127.0.0.1:8081 until Ctrl-C

Needs a JDK (17 or newer) and Maven; only the standard library here. Maven fetches the program the first time
(about 140 MB). It answers Confluent's API under /apis/ccompat/v7, takes about 400 MB, and dies with whoever
started it.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from jars import Server, java, launch, missing_tools, stop, tail
from ports import free_ports

ARTIFACT = "io.apicurio:apicurio-registry-app:2.6.13.Final:tar.gz:all"
BUILD = Path(__file__).resolve().parents[2] / "build"
HOME = BUILD / "apicurio-2.6.13"
MAIN = "io.quarkus.runner.GeneratedMain"
API = "/apis/ccompat/v7"
PORT = 8081
FETCH_S_MAX = 600.0
START_S_MAX = 180.0
HEAP = "400m"


class RegistryError(Exception):
    """The registry cannot be had, or does not start; the message says why and what to do."""


def classpath() -> str:
    """The program, fetched by Maven if it is not here yet.

    Raises:
        RegistryError: there is no JDK or no Maven, or Maven cannot fetch it.
    """
    for tool, what in missing_tools():
        raise RegistryError(f"a schema registry needs {what}, and there is no {tool!r} on the path")
    if not (HOME / "lib").is_dir():
        BUILD.mkdir(parents=True, exist_ok=True)
        # fetched beside it and moved, since several test runs may come here at once
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            command = [
                "mvn",
                "-B",
                "-q",
                "dependency:copy",
                f"-Dartifact={ARTIFACT}",
                f"-DoutputDirectory={folder}",
            ]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=FETCH_S_MAX, check=False, cwd=folder
                )
            except subprocess.TimeoutExpired:
                raise RegistryError(
                    f"Maven has not fetched the registry within {FETCH_S_MAX:.0f} s"
                ) from None
            if done.returncode != 0:
                raise RegistryError(f"Maven cannot fetch the registry:\n{tail(done.stdout + done.stderr)}")
            (archive,) = Path(folder).glob("*.tar.gz")
            unpacked = Path(folder) / "unpacked"
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked, filter="data")
            with contextlib.suppress(OSError):  # another one was faster
                unpacked.replace(HOME)
    (runner,) = HOME.glob("*-runner.jar")
    return f"{runner}{os.pathsep}{HOME / 'lib' / '*'}"


class RegistryServer(Server):
    """One registry.

    Args:
        folder: takes its log.
        port: to listen on; 0: a free one.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.log = folder / "registry.log"
        self.port = port or free_ports(1)[0]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of Confluent's API."""
        return f"http://127.0.0.1:{self.port}{API}"

    def start(self) -> None:
        """Start, and wait until it answers.

        Raises:
            RegistryError: it cannot be had, or does not answer in time.
        """
        jars = classpath()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        where = ("-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={self.port}")
        self.process = launch([*java(jars, HEAP), *where, MAIN], self.log)
        deadline = time.monotonic() + START_S_MAX
        while not self._answers():
            if self.process.poll() is not None:
                raise RegistryError(f"the registry has ended:\n{tail(self.log.read_text())}")
            if time.monotonic() > deadline:
                raise RegistryError(f"the registry does not answer:\n{tail(self.log.read_text())}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Ask it to stop, and wait until it has; kill it if it takes too long."""
        if self.process is None:
            return
        stop(self.process)
        self.process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/subjects", timeout=2.0) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one registry until Ctrl-C."""
    parser = argparse.ArgumentParser(description="One schema registry on this machine, until Ctrl-C.")
    parser.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="freshet-registry-") as folder:
        try:
            with RegistryServer(Path(folder), options.port) as registry:
                print(f'registry = "{registry.url}"; Ctrl-C stops it', flush=True)
                assert registry.process is not None
                registry.process.wait()
        except KeyboardInterrupt:
            return 0
        except RegistryError as error:
            print(f"error: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
