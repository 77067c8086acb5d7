"""How networks train: recipe, loop, checkpoints, averages and augmentation, as a task that can be resumed."""
