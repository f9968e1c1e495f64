"""One trial from a proposal to a score, and the loop that runs them."""
