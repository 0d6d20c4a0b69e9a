"""Data sets: generated digits, anybody's data.yaml, public sets by name."""
