"""The notebooks, run in order, and what goes with it."""
