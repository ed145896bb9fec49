"""Speed and memory beside the alternatives: one script for each row of the table of figures."""
