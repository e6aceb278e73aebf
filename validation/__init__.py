"""Is it the same network? Runners, cases, budgets and the one comparison. Imports no framework."""
