"""Importing this module loads all of ITK that reading needs, once, whichever thread comes first.

ITK loads its modules on first use, and changes the working directory of the whole process meanwhile: files that other
threads open by a relative path are then not found. It goes on quietly where the folder that it wants to change to is
not there, and does not need it: its modules lie in a package. They also crash Python when they are loaded where
deprecation warnings count as errors.
"""

import os
import warnings

import itk
import itkConfig  # type: ignore[import-untyped]

# every name of ITK that the readers touch, and MONAI's reader for them
_USED = ("Image", "VectorImage", "ImageFileReader", "PNGImageIO", "TIFFImageIO", "NrrdImageIO", "MetaImageIO",
         "PyBuffer", "array_view_from_image", "array_from_matrix", "size")  # fmt: skip

_folder, itkConfig.swig_lib = itkConfig.swig_lib, os.devnull
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for _name in _USED:
            getattr(itk, _name)
finally:
    itkConfig.swig_lib = _folder
