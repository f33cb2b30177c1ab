"""The method: schedule (Eq. 1-9, 21) and chain (Algorithm 2)."""
