"""What happens beside training: saving and stopping, progress, samples of text."""
