"""The commands of `adacomcat`, one module each: flags, which of them go together, and the run."""
