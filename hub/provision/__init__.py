"""Who belongs to a fleet? Its authority, the certificates that it issues, and the rules of its broker."""
