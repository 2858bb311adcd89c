"""One engine for search and finetune phase, the dense model before them, and their state."""

from adacomcat.training.dense import dense_model
from adacomcat.training.engine import Trial, run_trial
from adacomcat.training.rows import Reporter

__all__ = ["Reporter", "Trial", "dense_model", "run_trial"]
