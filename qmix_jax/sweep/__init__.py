"""Many runs: the jobs of one command line."""
