"""The original library's folder: only the import path `mpl_sparse.utils.save_load` lives on."""
