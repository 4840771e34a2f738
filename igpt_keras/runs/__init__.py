"""Pre-training, fine-tuning and probes from images to `result.json`, without the command line."""
