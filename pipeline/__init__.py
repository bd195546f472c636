"""What moves data: one module a stage, each `stage(settings, inputs) -> frozen result`."""
