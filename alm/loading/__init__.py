"""Loading a saved model: the arguments of `from_pretrained`, the files of a directory, the parts made of them.

The model itself is in `alm/model.py`, its config in `alm/configuration.py`.
"""
