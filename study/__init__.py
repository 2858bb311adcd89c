"""Studies: many trials on Ray, and their results directory."""
