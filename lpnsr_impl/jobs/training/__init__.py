"""Trains autoencoders, denoisers, noise predictors (Algorithm 1 of the LPNSR paper) and x4 upscale
models for PreSet-B.

`trainer` has the training loop, `tasks` the forward pass and losses of each task, and `configs`
the settings as TOML files.
"""
