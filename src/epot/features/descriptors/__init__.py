"""Hand-made representations of atomic environments, one file each: a name in a configuration is a file's."""
