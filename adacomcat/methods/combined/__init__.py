"""Low-rank weights and token rates on one model, searched jointly or one after the other."""
