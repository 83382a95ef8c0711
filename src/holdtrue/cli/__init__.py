"""Command line: one verb per file, each imported only when it is called."""
