"""Beyond the paper: what turns zeros, and a runtime, into speed."""
