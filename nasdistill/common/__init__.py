"""The base of every other package; it imports none of them."""
