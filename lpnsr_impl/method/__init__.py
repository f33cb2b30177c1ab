"""Noise schedule (Eq. 1-9 and 21) and sampling loop (Algorithm 2) of the LPNSR paper."""
