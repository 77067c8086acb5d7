"""Runs a function in a fresh process, for tests in which it ends the process as a kill would.

A fork of the test's own process may crash: by then it has threads of TensorFlow and pyarrow, which a fork lacks.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

KILLED = 9


def exit_code(function: Callable[..., Any], *arguments: Any) -> int | None:
    """Return the exit code of a process that calls a function of a module; 0 if the function returns."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    return process.exitcode
