"""Speed: the ways compared, the reference as the official code runs it, tables."""
