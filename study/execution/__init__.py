"""How the trials of a study are run."""
