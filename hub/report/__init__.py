"""What happened to every question, and where did the milliseconds go? Rows of the record store become a report."""
