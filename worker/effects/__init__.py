"""The effect seam: what agents ask of the outside, given back from the journal, or performed and recorded."""
