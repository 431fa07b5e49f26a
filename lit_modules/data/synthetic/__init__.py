"""Synthetic tasks: examples made from random numbers, each of which asks for one ability of a mixer."""
