"""What the exporters that lower a traced program to operators share: the walk over the jaxpr, tables, sizes."""
