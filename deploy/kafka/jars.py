"""Which Kafka: the versions that are tested, their jars, and what their Java processes are started with."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

HERE = Path(__file__).resolve().parent
POM = HERE / "pom.xml"
BUILD = HERE.parents[1] / "build"

NEWEST = "4.3.1"
OLDER = ("2.8.2", "3.6.2", "3.9.1")
"""Of each line that companies run, one version; the tests of the log run on all of them."""

KRAFT_SINCE = (3, 3)
"""Before this version KRaft lacked transactions or was a preview; such a broker needs ZooKeeper."""

FETCH_S_MAX = 300.0
STOP_S_MAX = 20.0
TAIL_LINES = 15
_PR_SET_PDEATHSIG = 1


class BrokerError(Exception):
    """The broker cannot be had, or does not start; the message says why and what to do."""


class Server:
    """A Java process that serves. A context manager: whatever ends the `with`, the process is gone."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start, and wait until it answers."""
        raise NotImplementedError

    def stop(self) -> None:
        """End the process, if there is one."""
        raise NotImplementedError


def needs_zookeeper(version: str) -> bool:
    """Whether brokers of this version keep their cluster's state in ZooKeeper."""
    return tuple(int(part) for part in version.split(".")[:2]) < KRAFT_SINCE


def missing_tools() -> list[tuple[str, str]]:
    """What Java programs from Maven need and is not on the path: (tool, what it is)."""
    tools = (("java", "a JDK, 17 or newer"), ("mvn", "Maven"))
    return [(tool, what) for tool, what in tools if shutil.which(tool) is None]


def classpath(version: str = NEWEST) -> str:
    """The jars of a broker, fetched by Maven if they are not here yet.

    Raises:
        BrokerError: there is no JDK or no Maven, or Maven cannot fetch the jars.
    """
    for tool, what in missing_tools():
        raise BrokerError(
            f"a Kafka broker needs {what}, and there is no {tool!r} on the path: install it (Debian: "
            "apt install openjdk-17-jdk-headless maven), or name a broker that runs already with "
            "FRESHET_KAFKA=host:port"
        )
    listed = BUILD / f"kafka-classpath-{version}.txt"
    if listed.is_file() and listed.stat().st_mtime >= POM.stat().st_mtime:
        found = listed.read_text().strip()
        if found and all(Path(jar).is_file() for jar in found.split(os.pathsep)):
            return found
    BUILD.mkdir(parents=True, exist_ok=True)
    # Several test runs may come here at once: each writes a file of its own and moves it.
    part = listed.with_name(f"{listed.name}.{os.getpid()}")
    command = ["mvn", "-B", "-q", "-f", str(POM), f"-Dkafka.version={version}"]
    command += ["dependency:build-classpath", f"-Dmdep.outputFile={part}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_S_MAX, check=False)
        if done.returncode != 0:
            raise BrokerError(
                f"Maven cannot fetch the jars of Kafka {version}:\n{tail(done.stdout + done.stderr)}"
            )
        class_archive(version).unlink(missing_ok=True)  # these are of the jars before
        shutil.rmtree(formatted(version), ignore_errors=True)
        part.replace(listed)
    except subprocess.TimeoutExpired:
        raise BrokerError(
            f"Maven has not fetched the jars of Kafka {version} within {FETCH_S_MAX:.0f} s"
        ) from None
    finally:
        part.unlink(missing_ok=True)
    return listed.read_text().strip()


def class_archive(version: str) -> Path:
    """Where this version's classes lie as the JVM wants them; reading and checking jars takes it a second."""
    return BUILD / f"kafka-classes-{version}.jsa"


def formatted(version: str) -> Path:
    """A data folder of this version as its tool makes it, which takes that tool two seconds."""
    return BUILD / f"kafka-formatted-{version}"


def java(jars: str, heap: str, loggers: Sequence[str] = (), archive: Path | None = None) -> list[str]:
    """A command line that lacks only the main class and its arguments.

    Args:
        loggers: what says more than warnings.
        archive: of classes; used if it is there and fits the JVM and the jars.
    """
    logger = "-Dorg.slf4j.simpleLogger"
    return [
        "java",
        *([f"-XX:SharedArchiveFile={archive}"] if archive is not None and archive.is_file() else []),
        f"-Xmx{heap}",
        # Few cores are shared with what is tested: the small collector needs no threads of its own.
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        f"{logger}.defaultLogLevel=warn",
        f"{logger}.showDateTime=true",
        f"{logger}.dateTimeFormat=HH:mm:ss.SSS",
        *(f"{logger}.log.{name}=info" for name in loggers),
        "-cp",
        jars,
    ]


def launch(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process that writes to `log`, ignores our Ctrl-C, and dies with this process."""
    with log.open("ab") as out:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to stop, and wait until it has; kill it if it takes too long."""
    process.terminate()
    try:
        process.wait(STOP_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def tail(text: str) -> str:
    """The last lines of what a process said."""
    return "\n".join(text.strip().splitlines()[-TAIL_LINES:])


def _die_with_parent() -> None:
    """In the child: be killed when the parent is gone, even by SIGKILL (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
