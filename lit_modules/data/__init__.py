"""Text as numbered tokens on disk; nothing here knows of Lightning."""
