"""What a model is measured against."""
