"""How does another runtime get it? One module or folder per format, writer and opener together."""
