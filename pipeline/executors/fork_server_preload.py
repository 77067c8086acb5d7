"""Imported by the fork server of `engine.nursery`, and only there: to import this is to set up what workers share."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress

from pipeline.executors.base import resolve
from pipeline.executors.fork_server import SETUP

signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
with suppress(Exception):  # a worker is set up again, and fails with the same error where someone listens
    _setup, _arguments = json.loads(os.environ[SETUP])
    resolve(_setup)(**_arguments)
