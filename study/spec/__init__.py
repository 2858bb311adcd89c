"""What a study is made of: schema, arms, settings."""
