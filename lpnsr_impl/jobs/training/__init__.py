"""Trains the four networks of a family, including the noise predictor by Algorithm 1.

One trainer (`trainer`) runs five tasks (`tasks`). Their settings are TOML files (`configs`).
"""
