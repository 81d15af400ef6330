"""Configuration: the schema of every setting, the words they are written in, and the loader of the file."""
