"""Training one network: samples, losses, the loop, weights on disk."""
