"""Offline models: simulators of language models, so that a newcomer, a CI run and the docs need no key.

They are not language models and do not pretend to be. They read nothing but the messages they are sent, gather
evidence for every allowed answer from words, and answer as their temper would: fallibly. No state, no clock, no
``hash()``, no float in a decision; integers and SHA-256 alone, so that a reply is the same on every platform.
``docs/offline-models.md`` has what they can show, what they cannot, and their landscape in numbers.
"""

from pytest_promptopt.lms.offline.model import OfflineLM, odds, reply
from pytest_promptopt.lms.offline.tempers import MODELS

__all__ = ["MODELS", "OfflineLM", "odds", "reply"]
