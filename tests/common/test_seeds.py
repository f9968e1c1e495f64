"""Seeds: fixed for good, since every stored study depends on them."""

from nasdistill.common.seeds import hash_seed, seed_of


def test_seeds_are_what_they_were() -> None:
    # Values of the first release: studies made with it go on with these.
    assert hash_seed((0, "race")) == 127741082554121
    assert hash_seed((7, "abc", "final")) == 279829635555920
    assert seed_of(0, "order", 3) == 56848615186927853
    assert seed_of(5, "step", 12) == 52243345192458962


def test_their_width_is_kept() -> None:
    assert max(hash_seed((i,)) for i in range(500)).bit_length() == 48
    assert max(seed_of(i) for i in range(500)).bit_length() == 56
