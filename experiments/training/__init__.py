"""The parts of a training run: its configuration, the order of its clips, its optimiser, its steps, its end."""
