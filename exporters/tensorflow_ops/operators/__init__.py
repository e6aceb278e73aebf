"""One module per group of operators. Importing a module registers its rules."""
