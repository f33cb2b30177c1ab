"""Measures models: metrics, the paper's tables and its pictures of predicted noise."""
