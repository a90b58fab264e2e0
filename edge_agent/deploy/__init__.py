"""How does a node change the bundle that it serves, and change it back? Fetches, keeps, tries and judges bundles."""
