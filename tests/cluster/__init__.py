"""The cluster drill: three real nodes on one store, while nodes, their network and the store's server fail.

Nothing here but a module of `engines` knows which store it is.
"""
