"""What the command line does: upscale, train, evaluate, degrade."""
