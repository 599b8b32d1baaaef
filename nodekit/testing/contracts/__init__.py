"""The contracts of components and plugins, as tests to subclass."""
