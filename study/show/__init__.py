"""Progress and status of a study."""
