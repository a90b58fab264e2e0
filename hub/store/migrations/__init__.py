"""How the tables of the record store came to be what they are, a step a file in `versions`."""
