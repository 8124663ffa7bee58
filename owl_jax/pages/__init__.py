"""Pages for people: HTML that is one file. Knows nothing of the rest of the house."""
