"""What needs Lightning: the training module, the data, the trainer and the command line."""
