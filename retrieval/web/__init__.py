"""The page in the browser, its JSON API, and what keeps both safe."""
