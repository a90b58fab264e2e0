"""How a signed bundle comes to the nodes of a fleet, few at first, and goes back where it is worse."""
