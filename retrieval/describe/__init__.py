"""From pictures to descriptors: a model as a user holds it, and many pictures through its engine."""
