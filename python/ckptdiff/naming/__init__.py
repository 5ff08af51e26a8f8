"""Parameter names: which are compared, under which name, and what layer they belong to."""
