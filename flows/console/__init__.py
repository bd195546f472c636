"""Reports and progress bars on the terminal."""
