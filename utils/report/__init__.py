"""The scores as a single HTML page: a table, and the pictures to compare."""
