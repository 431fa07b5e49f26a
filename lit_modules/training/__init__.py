"""Training with Lightning: the module, the trainer, what happens beside a run, and how a run is resumed."""
