"""Training: the engine of the search and finetune phases, and the dense model before them."""

from adacomcat.training.dense import dense_model
from adacomcat.training.engine import Trial, run_trial
from adacomcat.training.rows import Reporter

__all__ = ["Reporter", "Trial", "dense_model", "run_trial"]
