"""What a run will need, before it begins: of an archive, a model and machines."""
