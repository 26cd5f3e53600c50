"""The laboratory: train, evaluate and compare, one command a table.

It needs the extra ``lab`` (``pip install 'manifold-mixup[lab]'``); the library never imports it.
Data flows one way: recipe → data + model → train → evaluate → report.
"""
