"""The bundled example server: three small containers that read a text, and the node file of a node that runs them.

`nodekit demo` runs it from a temporary folder. Copy this folder to have it for yourself, and run
`nodekit serve node.toml`.
"""
