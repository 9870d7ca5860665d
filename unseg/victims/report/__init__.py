"""From finished cells to tables, figures and a page."""
