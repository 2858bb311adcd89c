"""What a model is, family by family."""
