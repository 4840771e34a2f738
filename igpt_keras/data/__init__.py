"""Images from where they are kept: arrays, splits, and encoded tokens."""
