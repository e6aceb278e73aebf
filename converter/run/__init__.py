"""Who does what in which process: tasks, the nursery, workers."""
