"""The entry point: what the user can mend ends in one sentence and exit code 2, never in a traceback."""

from __future__ import annotations

import io
import sys

from lightly_prg.cli.app import app

_OUT_OF_MEMORY = ("DefaultCPUAllocator", "could not create a primitive", "can't start new thread")


def main() -> None:
    """Entry point: what the user can mend ends in one sentence and exit code 2, never in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no sign for `±` shows another one
    try:
        app()
    except SystemExit as end:
        # Typer answers Ctrl-C with the exit code alone.
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):
            print("Interrupted: what was finished is kept.", file=sys.stderr)
        raise
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
    on_cpu = isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or on_cpu:
        return 2, "Error: out of memory. A smaller train.batch_size or eval.batch_size needs less."
    return 1, None
