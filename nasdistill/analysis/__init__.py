"""What the figures of a study say: fronts, forecasts, choices, audits. Imports no torch."""
