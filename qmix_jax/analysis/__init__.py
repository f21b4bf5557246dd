"""What finished runs scored: statistics, comparisons, curves, reports."""
