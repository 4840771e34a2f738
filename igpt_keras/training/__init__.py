"""Fitting a model: optimiser and schedule, pre-training, fine-tuning."""
