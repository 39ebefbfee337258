"""Pure functions from figures to charts: what ECharts draws, the same data as a table, and a sentence about it."""
