"""Where the rows of a run go while it trains: metrics.jsonl, the terminal, Weights & Biases, TensorBoard."""
