"""Finished models measured: on test text and other corpora, by position and context, and on the tasks of others."""
