"""How does a checkpoint become artifacts? Reading, remapping, building, the run directory, the command line."""
