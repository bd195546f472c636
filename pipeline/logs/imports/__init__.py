"""Files of interactions in other formats into Parquet logs."""
