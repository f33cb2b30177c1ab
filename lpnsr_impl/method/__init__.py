"""The method: noise schedule (Eq. 1-9, 21) and sampling loop (Algorithm 2)."""
