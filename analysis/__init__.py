"""From stored results to figures and tables; needs neither torch nor Ray."""
