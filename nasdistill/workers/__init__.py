"""The processes that work at a study, and what they are told."""
