"""Loading a saved model: the arguments of `from_pretrained`, the files of a directory, and the parts of the model.

The model itself is in `alm/model.py`, its config in `alm/configuration.py`.
"""
