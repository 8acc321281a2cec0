"""Settings: what can be chosen, in which range, and where it is checked."""
