"""Accuracy, time and pruning of a network."""
