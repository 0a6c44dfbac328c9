"""Every sender of the forty called once, in their order: ``python -m tests.forty.sending`` in the project's folder."""

from __future__ import annotations

import sys
from importlib import import_module

from tests.forty.forty import FORTY, Existing


def send(existing: Existing, copy: str = "") -> str:
    """The reply to one of them, sent by a copy of its module where that is named."""
    own, _, name = existing.sender.partition(":")
    owner, _, method = name.rpartition(".")
    holder = import_module(copy or own)
    reply: str = getattr(getattr(holder, owner)() if owner else holder, method)(**existing.inputs)
    return reply


if __name__ == "__main__":
    for existing in FORTY:
        send(existing)
    assert "pytest" not in sys.modules
