"""Exit codes of the command; 0 is fine."""

SOME_FAILED, USAGE, MODEL, DATA = 1, 2, 3, 4
