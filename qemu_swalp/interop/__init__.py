"""What the adapters of several frameworks need of one array library: imported by them alone."""
