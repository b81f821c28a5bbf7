"""A pack's report: what it is, what it lost and what it costs, as JSON and as one HTML page."""
