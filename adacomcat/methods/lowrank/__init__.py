"""Head-level low-rank factorization of attention and linear layers (ComCAT, arXiv 2305.17235)."""
