"""From training data to a bundle: train and export."""
