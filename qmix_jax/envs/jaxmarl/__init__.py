"""JaxMARL's environments without a file of their own here, and anybody's that has JaxMARL's interface."""
