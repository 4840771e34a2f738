"""What models are measured by: losses, accuracies, linear probes and baselines."""
