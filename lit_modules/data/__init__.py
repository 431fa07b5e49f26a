"""Text as numbered tokens on disk, without Lightning."""
