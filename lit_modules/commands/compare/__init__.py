"""Mixers trained alike, tested alike and reported together: the command `compare`."""
