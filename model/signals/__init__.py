"""Signal analysers: shot boundaries, black, blank and frozen stretches, activity and on-screen text."""

from model.signals.model import load, profile

__all__ = ["load", "profile"]
