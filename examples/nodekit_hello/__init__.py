"""The bundled example: three small containers that read a text, and the node file of a node that runs them.

`nodekit demo` runs it from a temporary folder. To change it, copy this folder and run `nodekit serve node.toml`.
"""
