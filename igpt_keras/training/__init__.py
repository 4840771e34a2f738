"""Fitting a model: optimizer and schedule, pre-training, fine-tuning."""
