"""What to do about it: facts in, findings out, each with its evidence, its cause and its fix."""
