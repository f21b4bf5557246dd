"""What is told while a run trains: terminal, Weights & Biases, TensorBoard."""
