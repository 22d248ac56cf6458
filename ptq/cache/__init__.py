"""What runs have found out, kept on disk: a run that was killed goes on from there, and another finds it done."""

from ptq.cache.locks import held
from ptq.cache.scratch import Scratch
from ptq.cache.store import Entry, Kept, Store, opened

__all__ = ["Entry", "Kept", "Scratch", "Store", "held", "opened"]
