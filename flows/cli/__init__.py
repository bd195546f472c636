"""The command `fearec`."""
