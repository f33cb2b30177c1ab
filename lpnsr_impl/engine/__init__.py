"""Runs the networks on images of any size within the memory that is free."""
