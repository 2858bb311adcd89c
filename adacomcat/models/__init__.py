"""Model families: descriptions of models, block by block."""
