"""Data sets through a workflow: rows in as a stream, a window of open runs, one result line for each row."""
