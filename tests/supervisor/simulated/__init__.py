"""The world that :mod:`simulation` lets a supervisor live in."""
