"""The archive of what nodes are and how they do; opens with the monitor issue, empty until then."""
