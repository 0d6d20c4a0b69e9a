"""What the paper prints and claims."""
