"""Everything that moves data; `pipeline/README.md` has the stages, tables and settings."""
