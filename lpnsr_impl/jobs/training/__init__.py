"""Trains the four networks of a family: Algorithm 1 for the noise predictor, and what comes before
it. One trainer (`trainer`), five tasks (`tasks`, `decoder`), settings as small
files (`configs/*.toml`)."""
