"""Dermoscopic images of seven kinds of skin lesion: structures, images."""
