"""DiffRate (ICCV 2023, arXiv 2305.17997): tokens pruned and merged at learnt rates."""
