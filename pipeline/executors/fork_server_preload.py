"""Sets up the fork server on import; see `pipeline.executors.fork_server`, which alone preloads this module."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress

from pipeline.executors.base import resolve
from pipeline.executors.fork_server import SETUP

signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
with suppress(Exception):  # each worker repeats the setup and reports the same error
    _setup, _arguments = json.loads(os.environ[SETUP])
    resolve(_setup)(**_arguments)
