"""The laboratory: train, evaluate and compare models from the command line.

It needs the extra ``lab`` (``pip install 'manifold-mixup[lab]'``). The library never imports it.
Data flows one way: recipe → data + model → train → evaluate → report.
"""
