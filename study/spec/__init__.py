"""Description of a study: experiments, arms, trials, explorations."""
