"""Other people's files into Parquet logs."""
