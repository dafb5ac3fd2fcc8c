"""Shared set-up: tests import their factory as ``made`` and never measure on more than one thread."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
