"""One step a file, applied in the order of their numbers."""
