"""The mathematics of the mixers as pure functions."""
