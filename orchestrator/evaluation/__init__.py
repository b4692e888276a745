"""Evaluations: labelled cases through variants of a workflow, graded, and compared with what chance would do."""
