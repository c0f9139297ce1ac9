"""Files of any size as pieces of raw records, worked on by every core or a cluster."""
