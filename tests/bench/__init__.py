"""Measurements that the code relies on."""
