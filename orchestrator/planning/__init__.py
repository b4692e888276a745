"""From what somebody wrote to what runs: workflows built, read, checked and drawn, and what each task gets.

Everything here is pure: the only input or output is reading a workflow file.
"""
