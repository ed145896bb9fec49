"""The entry point: what the user can mend ends in one sentence and exit code 2, never in a traceback."""

from __future__ import annotations

import sys

from lightly_prg.cli.app import app


def main() -> None:
    """Entry point: what the user can mend ends in one sentence and exit code 2, never in a traceback."""
    try:
        app()
    except Exception as error:
        code, message = _explain(error)
        if message is None:
            raise
        print(message, file=sys.stderr)
        sys.exit(code)


def _explain(error: Exception) -> tuple[int, str | None]:
    from lightly_prg.errors import UserError

    if isinstance(error, UserError | FloatingPointError):
        return 2, f"Error: {error}"
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return 2, f"Error: {error.strerror or error}{where}."
    if type(error).__name__ == "Interrupted":
        number = error.signal_number  # type: ignore[attr-defined]
        saved = "the state is saved" if error.saved else "the last checkpoint is kept"  # type: ignore[attr-defined]
        return 128 + number, f"Interrupted: {saved}; the same command with --resume continues."
    on_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or on_cpu:
        return 2, "Error: out of memory. A smaller train.batch_size or eval.batch_size needs less."
    return 1, None
