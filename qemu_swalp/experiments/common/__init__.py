"""What the experiments share: settings, data, runs, reports, pictures."""
