"""Schemas of Protobuf as text, compiled by protoc: not every registry gives them in compiled form."""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from stream.errors import LogError, RecordError

MAIN = "freshet_record.proto"
COMPILE_S_MAX = 60.0
SAID_MAX = 400  # characters of what protoc says

_PROTOC = "grpc_tools.protoc"


def compile_proto(text: str, references: Sequence[tuple[str, str]]) -> bytes:
    """The files of a schema as a FileDescriptorSet, each behind those that it imports, its own last.

    Args:
        references: (name as in `import`, text) of the files that it imports, except Google's own.

    Raises:
        LogError: protoc is not installed, or cannot be run.
        RecordError: it is no schema of Protobuf, or imports what is not there.
    """
    if importlib.util.find_spec("grpc_tools") is None:
        raise LogError(
            "the registry gives schemas of Protobuf as text, and grpcio-tools, which compiles them, is not "
            "there; install it: pip install 'freshet[formats]'"
        )
    with tempfile.TemporaryDirectory(prefix="freshet-proto-") as name:
        folder = Path(name)
        for file, content in [*references, (MAIN, text)]:
            path = PurePosixPath(file)
            if path.is_absolute() or ".." in path.parts or "\0" in file:
                raise RecordError(f"a schema imports {file!r}; expected a path below the schemas' folder")
            (folder / "in" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "in" / path).write_text(content, encoding="utf-8")
        out = folder / "out"
        command = [sys.executable, "-m", _PROTOC, f"-I{folder / 'in'}", f"-I{_own_files()}"]
        command += [f"--descriptor_set_out={out}", "--include_imports", MAIN]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=COMPILE_S_MAX, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LogError(f"protoc cannot compile a schema of Protobuf: {error}") from None
        if done.returncode != 0 or not out.is_file():
            said = " ".join(done.stderr.replace(f"{MAIN}:", "line ").split())
            raise RecordError(f"it is no schema of Protobuf that protoc compiles: {said[:SAID_MAX]}")
        return out.read_bytes()


def _own_files() -> Path:
    """Where grpcio-tools has google/protobuf/*.proto."""
    found = importlib.util.find_spec("grpc_tools")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "_proto"
