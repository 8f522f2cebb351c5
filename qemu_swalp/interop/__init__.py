"""What more than one adapter needs of a framework."""
