"""The graph of a study."""
