"""How good scores are: metrics over known labels, thresholds, reliability."""
