"""Tables as sources of rows: Parquet, Arrow, JSON, comma- and tab-separated values, lines of text."""
