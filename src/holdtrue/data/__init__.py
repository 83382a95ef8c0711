"""Data: files read into groups, row by row and tolerantly, and audited. No torch."""
