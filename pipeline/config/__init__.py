"""What a run can be told: settings, their sections, and how they are read."""
