"""The command line for one model: search, finetune, eval, info, convert. No Ray."""
