"""Tokenizers that are Keras models; a module is imported when its kind is looked up."""
