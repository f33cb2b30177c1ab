"""Evaluation of models: metrics, the paper's tables, and its figures of the predicted noise."""
