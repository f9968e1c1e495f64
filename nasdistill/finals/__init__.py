"""Finals: distilled in full, tested once, exported and measured as exported."""
