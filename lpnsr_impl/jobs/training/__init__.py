"""Trains the four networks of a family: Algorithm 1 for the noise predictor, and what comes before
it. One trainer (`trainer`), four tasks (`tasks`), settings as small files (`configs/*.toml`)."""
