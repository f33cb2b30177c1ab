"""A picture of any size through the networks, in given memory."""
