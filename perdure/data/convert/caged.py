"""The child's side of reading a foreign file: limits first, then plain arrays and JSON for the parent.

Run as `python -m perdure.data.convert.caged` with a JSON request on standard input; only `cage.py` does that.
"""

import json
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from perdure.core.errors import UsageError
from perdure.core.files import json_bytes
from perdure.data.card import ARRAYS_FILE
from perdure.data.convert import reader_module
from perdure.data.convert.cage import EXIT_MEMORY, EXIT_REFUSED, REFUSAL_FILE, RESULT_FILE, Limits
from perdure.data.convert.episodes import Budget, pack

LONGEST_SENTENCE = 600


def restrict(limits: Limits) -> None:
    """Limit this process for good: memory, CPU and wall time, file size, no core file."""
    wanted = {
        resource.RLIMIT_AS: limits.memory_mb * 2**20,
        resource.RLIMIT_CPU: limits.seconds,
        resource.RLIMIT_FSIZE: limits.file_mb * 2**20,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in wanted.items():
        _, hard = resource.getrlimit(kind)
        most = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        try:
            resource.setrlimit(kind, (most, most))
        except (ValueError, OSError):
            continue  # some systems do not limit address space; the budget and the clock remain
    signal.alarm(limits.seconds)


def read(request: dict[str, Any]) -> None:
    """Read the foreign file and leave `arrays.safetensors` and `result.json` in the request's folder."""
    limits = Limits(**request["limits"])
    path, folder = Path(request["path"]), Path(request["folder"])
    reader = reader_module(request["format"])
    source = reader.read(path, Budget(limits.array_bytes), **request.get("reader", {}))
    result, parts = pack(source, str(path), **request["options"])
    with open(folder / ARRAYS_FILE, "xb") as file:
        for part in parts:
            file.write(part)
    (folder / RESULT_FILE).write_bytes(json_bytes(result))


def serve(request: dict[str, Any]) -> int:
    """`read`, with every failure turned into an exit code and, where possible, a sentence in a file."""
    path = request["path"]
    try:
        read(request)
        return 0
    except MemoryError:
        return EXIT_MEMORY
    except UsageError as problem:
        sentence = " ".join(str(problem).split())[:LONGEST_SENTENCE]
    except Exception as problem:
        # Whatever a parser raises on a damaged file ends as one sentence; the child has nothing to lose.
        text = ascii(str(problem))[:160]
        reason = f"{type(problem).__name__}: {text}"
        sentence = f"{path} cannot be read as {request['format']} ({reason}); restore it from a copy"
    (Path(request["folder"]) / REFUSAL_FILE).write_bytes(json_bytes(sentence))
    return EXIT_REFUSED


def main() -> int:
    request = json.load(sys.stdin)
    restrict(Limits(**request["limits"]))
    return serve(request)


if __name__ == "__main__":
    sys.exit(main())
