"""A frozen set of failures, asked of another model: fixed, still failing, newly so."""
