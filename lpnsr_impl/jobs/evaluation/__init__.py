"""Evaluates models: metrics, the paper's tables, and its figures of predicted noise."""
