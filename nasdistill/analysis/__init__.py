"""Analysis of the figures of a study: fronts, forecasts, selection, audits. Imports no torch."""
