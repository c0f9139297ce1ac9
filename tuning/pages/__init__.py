"""Pages that people look at: one HTML file each, which needs nothing else, online or offline."""
