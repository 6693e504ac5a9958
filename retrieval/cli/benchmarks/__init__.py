"""``retrieve benchmark``: one file a comparison."""
