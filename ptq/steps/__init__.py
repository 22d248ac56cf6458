"""Steps before and after any method: a name is a module, with `-` for `_`, that has `STEP`."""
