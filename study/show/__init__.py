"""What a user sees of a study."""
