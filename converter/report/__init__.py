"""What people see: the terminal, the page, what a checkpoint holds."""
