"""The commands that Lightning lacks: plain functions, whose signatures are their help."""
