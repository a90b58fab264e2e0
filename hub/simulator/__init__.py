"""What would this fleet have done with that day's questions? The hub's own core, driven by virtual time."""
