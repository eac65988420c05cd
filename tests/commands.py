"""The command line in this process: a process of its own takes a second to begin, and there are hundreds of runs."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from typing import Any
from unittest import mock

from sparq_sim.cli import main


@dataclass(frozen=True)
class Done:
    stdout: str
    stderr: str


def sparq(*arguments: object, code: int = 0) -> Done:
    """`sparq` with these arguments, which has to end with that code. Files, since a full disk closes the descriptor."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        returned: object = 0
        with (
            mock.patch.object(sys, "argv", ["sparq", *map(str, arguments)]),
            mock.patch.object(sys, "stdout", out),
            mock.patch.object(sys, "stderr", err),
        ):
            try:
                main()
            except SystemExit as end:
                returned = end.code or 0
        out.seek(0)
        err.seek(0)
        done = Done(out.read(), err.read())
    assert returned == code, done.stderr
    return done


def table(*arguments: object) -> Any:
    return json.loads(sparq(*arguments, "--json").stdout)
